//! The face `diskimage-builder`: builds the images that YAML files list.
//!
//! A file is a list of maps; every key is one of [`KEYS`], which is the schema,
//! the help and the translation to `disk-image-create` in one. Each image is
//! built by a process of its own, because a build needs one with a single thread.

mod keys;

use std::fmt::Write as _;
use std::process::Command;

use super::failure::{Failure, misused};
use super::{Context, argparse};
use crate::disk::yaml::{self, Map, Value};
use crate::element::info::quote;
use crate::helpers::arguments::{Known, added, flag};
use crate::sandbox::command::shell_status;
use keys::{Becomes, KEYS, Kind, check, schema, whole};

fn help() -> String {
    let mut text = String::from(
        "Builds the images that YAML files list.\n\
         \n\
         Usage: diskimage-builder [--dry-run] [--stop-on-failure] FILE...\n\
         \n\
         \x20     --dry-run          Prints the commands that build the images, and runs none.\n\
         \x20     --stop-on-failure  Stops at the first image that fails, instead of the last.\n\
         \x20     --schema           Prints the JSON schema of the files.\n\
         \x20 -h, --help             Prints this text.\n\
         \x20     --version          Prints the version.\n\
         \n\
         A file is a list of maps, one for each image. Entries with the same imagename are\n\
         merged: lists and maps grow, anything else replaces; an entry without one belongs to\n\
         the entry before. The keys:\n\n",
    );
    for key in KEYS {
        let _ = writeln!(text, "  {:<18} {}", key.name, key.help);
        let _ = writeln!(text, "  {:<18} ({})", "", wrapped(&key.kind.describe()));
    }
    text.push_str("\nExample: diskimage-builder --dry-run images.yaml\n");
    text
}

/// Breaks a long list of words so that the help stays readable.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + word.len() > 64 {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines.join(&format!("\n{:<22}", ""))
}

const OPTIONS: [Known; 4] = [
    flag("--dry-run", None),
    flag("--stop-on-failure", None),
    added(flag("--schema", None)),
    added(flag("--version", None)),
];

/// Runs `diskimage-builder`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let given = argparse::parse("diskimage-builder", arguments, &OPTIONS)?;
    if given.asks_for_help() {
        context.printer.data(help());
        return Ok(0);
    }
    if given.has("--version") {
        context.printer.line(env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    if given.has("--schema") {
        context.printer.json(&schema())?;
        return Ok(0);
    }
    let (dry, stop) = (given.has("--dry-run"), given.has("--stop-on-failure"));
    let files = argparse::operands(&given);
    if files.is_empty() {
        return Err(misused("no file is given")
            .hint("usage: diskimage-builder [--dry-run] [--stop-on-failure] FILE..."));
    }
    let mut images = Images::default();
    for file in &files {
        let path = context.caller.current_dir.join(file);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::new(format!("cannot read `{file}`: {error}")))
            .map_err(|failure| failure.hint("name YAML files that list images"))?;
        images.add(file, &text)?;
    }
    let mut failed = Vec::new();
    for image in &images.list {
        let line = image.line();
        context.printer.note(format_args!("{}\n", line.shown()));
        if dry {
            continue;
        }
        let status = line.run(context)?;
        if status != 0 {
            failed.push(format!("`{}` (exit status {status})", image.name));
            if stop {
                break;
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    let count = images.list.len();
    Err(Failure::new(format!(
        "{} of {count} images failed: {}",
        failed.len(),
        failed.join(", ")
    ))
    .hint("what failed is in the output of each; the command that built it is above it"))
}

/// An image: its values, checked and merged.
#[derive(Debug, Default)]
struct Image {
    name: String,
    values: Map,
}

/// The images of all files.
#[derive(Debug, Default)]
struct Images {
    list: Vec<Image>,
    /// The name that entries without one belong to.
    last: Option<String>,
}

impl Images {
    /// Adds the entries of a file.
    fn add(&mut self, file: &str, text: &str) -> Result<(), Failure> {
        let value = yaml::parse(text)
            .map_err(|error| Failure::new(format!("`{file}` is not YAML: {error}")))
            .map_err(|failure| failure.hint("correct the line that it names"))?;
        let Value::List(entries) = value else {
            return Err(Failure::new(format!(
                "`{file}` is {} where a list of images is expected",
                value.kind_name()
            ))
            .hint("begin each image with `- `, as in `- imagename: debian`"));
        };
        for (number, entry) in (1..).zip(entries) {
            let Value::Map(entry) = entry else {
                return Err(Failure::new(format!(
                    "entry {number} of `{file}` is {} where a map is expected",
                    entry.kind_name()
                ))
                .hint("`diskimage-builder --help` lists the keys of an image"));
            };
            for (name, value) in entry.iter() {
                check(name, value).map_err(|failure| Failure {
                    message: format!("entry {number} of `{file}`: {}", failure.message),
                    ..failure
                })?;
            }
            self.merge(&entry);
        }
        Ok(())
    }

    fn merge(&mut self, entry: &Map) {
        if let Some(name) = entry.get("imagename").and_then(Value::as_text) {
            self.last = Some(name.to_owned());
        }
        let name = self.last.clone().unwrap_or_else(|| "image".to_owned());
        let at = match self.list.iter().position(|image| image.name == name) {
            Some(at) => at,
            None => {
                self.list.push(Image {
                    name,
                    values: Map::default(),
                });
                self.list.len() - 1
            }
        };
        let values = &mut self.list[at].values;
        for (key, value) in entry.iter() {
            let merged = match (values.get(key), value) {
                (Some(Value::List(before)), Value::List(more)) => {
                    Value::List(before.iter().chain(more).cloned().collect())
                }
                (Some(Value::Map(before)), Value::Map(more)) => {
                    let mut map = before.clone();
                    for (key, value) in more.iter() {
                        map.set(key, value.clone());
                    }
                    Value::Map(map)
                }
                (_, value) => value.clone(),
            };
            values.set(key, merged);
        }
    }
}

/// A command and the variables that it gets.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    program: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Image {
    /// The command that builds it.
    fn line(&self) -> Line {
        let mut line = Line {
            program: "disk-image-create",
            arguments: Vec::new(),
            environment: Vec::new(),
        };
        let is_true =
            |text: &str| ["true", "yes", "on", "y"].contains(&text.to_ascii_lowercase().as_str());
        for key in KEYS {
            let Some(value) = self.values.get(key.name) else {
                continue;
            };
            let joined = match value {
                Value::Scalar(scalar) => match key.kind {
                    Kind::Integer(..) => whole(&scalar.text).map_or_else(String::new, |n| n.1),
                    _ => scalar.text.clone(),
                },
                Value::List(items) => texts(items).join(","),
                Value::Map(map) => map
                    .iter()
                    .map(|(key, value)| format!("{key}={}", value.as_text().unwrap_or_default()))
                    .collect::<Vec<_>>()
                    .join(","),
                Value::Null => String::new(),
            };
            match key.becomes {
                Becomes::Option(option) if key.kind == Kind::Bool => {
                    if is_true(&joined) {
                        line.arguments.push(option.to_owned());
                    }
                }
                Becomes::Option(_) if joined.is_empty() => {}
                Becomes::Option(option) => {
                    line.arguments.extend([option.to_owned(), joined]);
                }
                Becomes::Repeated(option) => {
                    let times = joined.parse().unwrap_or(0);
                    line.arguments
                        .extend(std::iter::repeat_n(option.to_owned(), times));
                }
                Becomes::Operands => {
                    if let Value::List(items) = value {
                        line.arguments.extend(texts(items));
                    }
                }
                Becomes::Environment => {
                    if let Value::Map(map) = value {
                        line.environment.extend(map.iter().map(|(name, value)| {
                            (
                                name.to_owned(),
                                value.as_text().unwrap_or_default().to_owned(),
                            )
                        }));
                    }
                }
                Becomes::Ramdisk => {
                    if is_true(&joined) {
                        line.program = "ramdisk-image-create";
                    }
                }
            }
        }
        line
    }
}

fn texts(items: &[Value]) -> Vec<String> {
    items
        .iter()
        .filter_map(|item| item.as_text().map(str::to_owned))
        .collect()
}

impl Line {
    /// As a shell would take it.
    fn shown(&self) -> String {
        let variables = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={}", quote(value)));
        variables
            .chain(std::iter::once(self.program.to_owned()))
            .chain(self.arguments.iter().map(|argument| quote(argument)))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs the command and returns its exit status.
    fn run(&self, context: &Context) -> Result<i32, Failure> {
        let status = Command::new("/proc/self/exe")
            .arg(self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&context.caller.current_dir)
            .status()
            .map_err(|error| Failure::new(format!("cannot start `{}`: {error}", self.program)))?;
        Ok(shell_status(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut images = Images::default();
        images.add("x.yaml", text).expect("valid");
        images
            .list
            .iter()
            .map(|image| image.line().shown())
            .collect()
    }

    #[test]
    fn keys_become_options_in_dibs_order() {
        let text = "
- elements: [vm, debian-minimal]
  packages: [a, b]
  skip-base: true
  checksum: false
  uncompressed: true
  imagename: out
  types: [qcow2, raw]
  debug-trace: 2
  mkfs-options: -i 8192
  qemu-img-options: {compat: '0.10', x: z}
  image-size: 5
  logfile: ''
  arch: amd64
  environment: {DIB_RELEASE: \"it's\"}
";
        assert_eq!(
            lines(text),
            [
                "DIB_RELEASE='it'\\''s' disk-image-create -o out -a amd64 -t qcow2,raw -x -x -u \
              --image-size 5 --mkfs-options '-i 8192' --qemu-img-options compat=0.10,x=z -p a,b \
              -n vm debian-minimal"
            ]
        );
    }

    #[test]
    fn whole_numbers_may_be_written_in_every_way_of_yaml() {
        for (text, option) in [
            ("2", "2"),
            ("2.0", "2.0"),
            ("+5", "5"),
            ("010", "8"),
            ("0x10", "16"),
            ("1_000", "1000"),
            ("1.0e+3", "1000.0"),
        ] {
            assert_eq!(
                lines(&format!("- image-size: {text}\n")),
                [format!("disk-image-create --image-size {option}")]
            );
        }
        for text in ["2.5", "0", "-1", "0.0", "1e3", "08", ".inf", ".nan", "'2'"] {
            let mut images = Images::default();
            let refused = images.add("f", &format!("- image-size: {text}\n"));
            assert!(refused.is_err(), "{text}");
        }
        assert_eq!(lines("- debug-trace: 0x2\n"), ["disk-image-create -x -x"]);
        let mut images = Images::default();
        assert!(images.add("f", "- debug-trace: 1.0\n").is_err());
        // What only newer rules take for numbers is text.
        assert_eq!(
            lines("- {imagename: 1e3, packages: [0o10, 08]}\n"),
            ["disk-image-create -o 1e3 -p 0o10,08"]
        );
    }

    #[test]
    fn entries_of_one_name_are_merged_at_the_place_of_the_first() {
        let text = "
- imagename: a
  elements: [one]
  environment: {X: '1', Y: '1'}
  ramdisk: true
- imagename: b
  elements: [two]
- elements: [three]
- imagename: a
  elements: [four]
  environment: {Y: '2'}
";
        assert_eq!(
            lines(text),
            [
                "X=1 Y=2 ramdisk-image-create -o a one four",
                "disk-image-create -o b two three"
            ]
        );
        assert_eq!(lines("- elements: [x]\n"), ["disk-image-create x"]);
    }

    #[test]
    fn what_the_schema_does_not_allow_is_refused_with_its_place() {
        for (text, message, hint) in [
            (
                "imagename: x\n",
                "`f` is a mapping where a list of images is expected",
                "begin each image",
            ),
            (
                "- x\n",
                "entry 1 of `f` is a scalar where a map is expected",
                "lists the keys",
            ),
            (
                "- {}\n- imagenam: x\n",
                "entry 2 of `f`: unknown key `imagenam`",
                "did you mean `imagename`?",
            ),
            (
                "- imagename: 5\n",
                "entry 1 of `f`: `imagename` is `5`, which YAML takes for something else where text is expected",
                "quote it: `\"5\"`",
            ),
            (
                "- environment: {A: true}\n",
                "`environment` is `true`, which YAML takes for something else",
                "quote it",
            ),
            (
                "- types: [qcwo2]\n",
                "`types` is `qcwo2` where a list of",
                "did you mean `qcow2`?",
            ),
            (
                "- arch: amd46\n",
                "`arch` is `amd46` where one of",
                "did you mean `amd64`?",
            ),
            (
                "- debug-trace: 3\n",
                "`debug-trace` is `3` where a whole number from 0 to 2 is expected",
                "says what each key takes",
            ),
            (
                "- offline: 1\n",
                "`offline` is `1` where `true` or `false` is expected",
                "",
            ),
            (
                "- logfile:\n",
                "`logfile` is null where text is expected",
                "",
            ),
            (
                "- elements: vm\n",
                "`elements` is `vm` where a list of texts is expected",
                "",
            ),
            ("", "`f` is null where a list", ""),
            ("- [\n", "`f` is not YAML", "correct the line"),
        ] {
            let failure = Images::default().add("f", text).expect_err(message);
            assert!(failure.message.contains(message), "{}", failure.message);
            assert!(
                failure.hints.join(" ").contains(hint),
                "{text}: {:?}",
                failure.hints
            );
            assert_eq!(failure.status, 1);
        }
    }

    #[test]
    fn the_schema_has_every_key_of_dib() {
        let schema = schema();
        for name in "imagename arch types environment ramdisk debug-trace uncompressed clear \
            logfile checksum image-size image-extra-size image-cache max-online-resize min-tmpfs \
            mkfs-journal-size mkfs-options no-tmpfs offline qemu-img-options root-label \
            ramdisk-element install-type docker-target packages skip-base elements"
            .split_whitespace()
        {
            assert!(schema["items"]["properties"][name].is_object(), "{name}");
        }
        assert_eq!(
            schema["items"]["properties"]
                .as_object()
                .map(|keys| keys.len()),
            Some(27)
        );
        let help = help();
        assert!(KEYS.iter().all(|key| help.contains(key.name)));
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}

//! Command lines as getopt(1) of util-linux reads them.
//!
//! `disk-image-create` has always been parsed by that program, so scripts rely
//! on its rules: options and operands may be mixed, short options cluster
//! (`-xu`) and take their value attached or apart, long options take theirs
//! after `=` or apart and may be abbreviated while that is unambiguous, and
//! `--` ends the options. With `POSIXLY_CORRECT` set, the first operand does.

use super::failure::Failure;
use super::nearest::nearest;

/// An option of a command: one definition for parsing, help and reference.
#[derive(Debug)]
pub struct Flag<Id: 'static> {
    /// What the command calls it.
    pub id: Id,
    /// Its letter.
    pub short: Option<char>,
    /// Its long name, without dashes.
    pub long: Option<&'static str>,
    /// Name of the value that it takes, if it takes one.
    pub value: Option<&'static str>,
    /// What it does, in one sentence.
    pub help: &'static str,
    /// Whether DIB's own parser does not know it. Abbreviations prefer what
    /// DIB knows, so that an addition never makes an old script ambiguous.
    pub added: bool,
}

/// A part of a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<Id> {
    /// An option and its value, which is there exactly if the option takes one.
    Option(Id, Option<String>),
    /// Anything else.
    Operand(String),
}

impl<Id> Flag<Id> {
    /// One that DIB's parser knows.
    pub const fn new(
        id: Id,
        short: Option<char>,
        long: Option<&'static str>,
        value: Option<&'static str>,
        help: &'static str,
    ) -> Flag<Id> {
        Flag {
            id,
            short,
            long,
            value,
            help,
            added: false,
        }
    }

    /// How the option is written in a message: the long form if there is one.
    fn name(&self) -> String {
        match (self.long, self.short) {
            (Some(long), _) => format!("--{long}"),
            (None, Some(short)) => format!("-{short}"),
            (None, None) => String::new(),
        }
    }
}

/// Splits `arguments` (without the program's name) into options and operands.
///
/// `posix` ends the options at the first operand. The first mistake is returned.
pub fn parse<Id: Copy>(
    flags: &'static [Flag<Id>],
    arguments: &[String],
    posix: bool,
) -> Result<Vec<Part<Id>>, Failure> {
    let mut parts = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            break;
        }
        if let Some(long) = argument.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let flag = find_long(flags, name)?;
            let value = match (flag.value, attached) {
                (None, None) => None,
                (None, Some(_)) => {
                    return Err(Failure::new(format!(
                        "option `{}` takes no value",
                        flag.name()
                    )));
                }
                (Some(_), Some(value)) => Some(value),
                (Some(kind), None) => Some(next_value(&mut rest, &flag.name(), kind)?),
            };
            parts.push(Part::Option(flag.id, value));
        } else if argument.len() > 1 && argument.starts_with('-') {
            let mut letters = argument[1..].chars();
            while let Some(letter) = letters.next() {
                let flag = flags
                    .iter()
                    .find(|flag| flag.short == Some(letter))
                    .ok_or_else(|| unknown_short(flags, argument, letter))?;
                let value = match flag.value {
                    None => None,
                    Some(_) if !letters.as_str().is_empty() => {
                        let value = letters.as_str().to_owned();
                        letters = "".chars();
                        Some(value)
                    }
                    Some(kind) => Some(next_value(&mut rest, &format!("-{letter}"), kind)?),
                };
                parts.push(Part::Option(flag.id, value));
            }
        } else {
            parts.push(Part::Operand(argument.clone()));
            if posix {
                break;
            }
        }
    }
    parts.extend(rest.map(|operand| Part::Operand(operand.clone())));
    Ok(parts)
}

fn next_value<'a>(
    rest: &mut impl Iterator<Item = &'a String>,
    option: &str,
    kind: &str,
) -> Result<String, Failure> {
    rest.next().cloned().ok_or_else(|| {
        Failure::new(format!("option `{option}` needs a value"))
            .hint(format!("write `{option} {kind}`"))
    })
}

fn find_long<Id>(flags: &'static [Flag<Id>], name: &str) -> Result<&'static Flag<Id>, Failure> {
    if let Some(exact) = flags.iter().find(|flag| flag.long == Some(name)) {
        return Ok(exact);
    }
    for added in [false, true] {
        let meant: Vec<&Flag<Id>> = flags
            .iter()
            .filter(|flag| flag.added == added)
            .filter(|flag| flag.long.is_some_and(|long| long.starts_with(name)))
            .collect();
        match meant.as_slice() {
            [] => {}
            [one] => return Ok(one),
            many => {
                let names: Vec<String> = many
                    .iter()
                    .map(|flag| format!("`{}`", flag.name()))
                    .collect();
                return Err(Failure::new(format!("option `--{name}` is ambiguous"))
                    .hint(format!("it could be {}", names.join(", "))));
            }
        }
    }
    let failure = Failure::new(format!("unknown option `--{name}`"));
    Err(
        match nearest(name, flags.iter().filter_map(|flag| flag.long)) {
            Some(long) => failure.hint(format!("did you mean `--{long}`?")),
            None => failure,
        },
    )
}

fn unknown_short<Id>(flags: &'static [Flag<Id>], argument: &str, letter: char) -> Failure {
    let failure = Failure::new(format!("unknown option `-{letter}`"));
    // A long option written with one dash is the likeliest mistake.
    let long = argument[1..].split('=').next().unwrap_or_default();
    match nearest(long, flags.iter().filter_map(|flag| flag.long)) {
        Some(long) if argument.len() > 3 => failure.hint(format!("did you mean `--{long}`?")),
        _ => failure,
    }
}

/// The options with their help, one paragraph each, as `--help` prints them.
pub fn help<Id>(flags: &'static [Flag<Id>], width: usize) -> String {
    const INDENT: usize = 30;
    let mut text = String::new();
    for flag in flags {
        let names: Vec<String> = [
            flag.short.map(|short| format!("-{short}")),
            flag.long.map(|long| format!("--{long}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        let lead = if flag.short.is_some() { "  " } else { "      " };
        let mut head = format!("{lead}{}", names.join(", "));
        if let Some(value) = flag.value {
            head.push(' ');
            head.push_str(value);
        }
        let mut line = format!("{head:<INDENT$}");
        if head.len() >= INDENT {
            text.push_str(&head);
            text.push('\n');
            line = " ".repeat(INDENT);
        }
        let mut empty = true;
        for word in flag.help.split_whitespace() {
            if !empty && line.len() + 1 + word.len() > width {
                text.push_str(&line);
                text.push('\n');
                line = " ".repeat(INDENT);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Id {
        Arch,
        Trace,
        Offline,
        MkfsOptions,
        MkfsJournal,
        MaxResize,
        MinTmpfs,
    }

    const fn flag(
        id: Id,
        short: Option<char>,
        long: Option<&'static str>,
        value: Option<&'static str>,
    ) -> Flag<Id> {
        Flag {
            id,
            short,
            long,
            value,
            help: "Does it.",
            added: matches!(id, Id::MkfsJournal),
        }
    }

    static FLAGS: &[Flag<Id>] = &[
        flag(Id::Arch, Some('a'), None, Some("ARCH")),
        flag(Id::Trace, Some('x'), None, None),
        flag(Id::Offline, None, Some("offline"), None),
        flag(Id::MkfsOptions, None, Some("mkfs-options"), Some("OPTS")),
        flag(
            Id::MkfsJournal,
            None,
            Some("mkfs-journal-size"),
            Some("MIB"),
        ),
        flag(
            Id::MaxResize,
            None,
            Some("max-online-resize"),
            Some("BLOCKS"),
        ),
        flag(Id::MinTmpfs, None, Some("min-tmpfs"), Some("GIB")),
    ];

    fn run(line: &str, posix: bool) -> Result<Vec<Part<Id>>, Failure> {
        let words = shlex::split(line).expect("test lines are well quoted");
        parse(FLAGS, &words, posix)
    }

    fn option(id: Id, value: &str) -> Part<Id> {
        Part::Option(id, Some(value.to_owned()))
    }

    fn operand(text: &str) -> Part<Id> {
        Part::Operand(text.to_owned())
    }

    #[test]
    fn lines_split_as_getopt_splits_them() {
        let trace = || Part::Option(Id::Trace, None);
        let offline = || Part::Option(Id::Offline, None);
        for (line, parts) in [
            ("", vec![]),
            ("-a amd64", vec![option(Id::Arch, "amd64")]),
            ("-aamd64", vec![option(Id::Arch, "amd64")]),
            ("-xaamd64", vec![trace(), option(Id::Arch, "amd64")]),
            ("-xx vm", vec![trace(), trace(), operand("vm")]),
            ("vm -x base", vec![operand("vm"), trace(), operand("base")]),
            ("-a -x", vec![option(Id::Arch, "-x")]),
            ("--offline", vec![offline()]),
            ("--off", vec![offline()]),
            ("--min-tmpfs=4", vec![option(Id::MinTmpfs, "4")]),
            ("--min-tmpfs 4", vec![option(Id::MinTmpfs, "4")]),
            ("--mi 4", vec![option(Id::MinTmpfs, "4")]),
            ("--mkfs-options ''", vec![option(Id::MkfsOptions, "")]),
            ("--mkfs-options=-O=x", vec![option(Id::MkfsOptions, "-O=x")]),
            (
                "-x -- -x --offline",
                vec![trace(), operand("-x"), operand("--offline")],
            ),
            ("-", vec![operand("-")]),
        ] {
            assert_eq!(run(line, false).as_ref(), Ok(&parts), "{line}");
        }
    }

    #[test]
    fn posix_ends_options_at_the_first_operand() {
        assert_eq!(
            run("-x vm -x", true),
            Ok(vec![
                Part::Option(Id::Trace, None),
                operand("vm"),
                operand("-x")
            ])
        );
    }

    #[test]
    fn additions_never_make_an_old_abbreviation_ambiguous() {
        assert_eq!(
            run("--mkfs y", false),
            Ok(vec![option(Id::MkfsOptions, "y")])
        );
        assert_eq!(
            run("--mkfs-j 8", false),
            Ok(vec![option(Id::MkfsJournal, "8")])
        );
    }

    #[test]
    fn mistakes_say_what_is_right() {
        for (line, message, hint) in [
            (
                "--offlien",
                "unknown option `--offlien`",
                "did you mean `--offline`?",
            ),
            (
                "--m 4",
                "option `--m` is ambiguous",
                "it could be `--mkfs-options`, `--max-online-resize`, `--min-tmpfs`",
            ),
            ("-a", "option `-a` needs a value", "write `-a ARCH`"),
            (
                "--min-tmpfs",
                "option `--min-tmpfs` needs a value",
                "write `--min-tmpfs GIB`",
            ),
            ("-z", "unknown option `-z`", ""),
            (
                "-ofline",
                "unknown option `-o`",
                "did you mean `--offline`?",
            ),
            ("--offline=1", "option `--offline` takes no value", ""),
        ] {
            let failure = run(line, false).expect_err(line);
            assert_eq!(failure.message, message);
            assert_eq!(failure.hints.join(" "), hint, "{line}");
            assert_eq!(failure.status, 1);
        }
    }

    #[test]
    fn help_is_wrapped_and_aligned() {
        let text = help(FLAGS, 60);
        assert!(
            text.starts_with("  -a ARCH                     Does it.\n"),
            "{text}"
        );
        assert!(text.contains(
            "      --max-online-resize BLOCKS\n                              Does it.\n"
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(words in proptest::collection::vec("[-=axo é]{0,6}", 0..8), posix: bool) {
            let _ = parse(FLAGS, &words, posix);
        }
    }
}

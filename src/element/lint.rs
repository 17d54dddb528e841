//! Rules that elements are held to, as diskimage-builder's `dib-lint` has them.
//!
//! A file may switch rules off with `# dib-lint: disable=NAME NAME`, and a project
//! with `ignore` in the section `dib-lint` of its `tox.ini`. Python is left to
//! flake8; which files are Python's is said here.

use std::path::Path;

/// A rule that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the directory of elements.
    pub path: String,
    /// The line, where one is to blame.
    pub line: Option<usize>,
    /// The rule's name, as `disable=` takes it.
    pub rule: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Names of all rules with what they ask for.
pub const RULES: [(&str, &str); 19] = [
    ("readme", "an element has a README.rst or README.md"),
    (
        "mddocs",
        "an element without element.yaml has no documents in Markdown",
    ),
    ("executable", "a file with an interpreter is executable"),
    ("indent", "indents are multiples of four blanks"),
    ("sorted", "element-deps is sorted"),
    ("interpreter", "bash is `#!/bin/bash`"),
    ("sete", "bash scripts use `set -e`"),
    ("setu", "bash scripts use `set -u`"),
    ("setpipefail", "bash scripts use `set -o pipefail`"),
    ("dibdebugtrace", "bash scripts look at DIB_DEBUG_TRACE"),
    (
        "environment",
        "files of environment.d neither trace nor are executable",
    ),
    ("export", "`export X=$(…)` hides a failure"),
    ("safe_sudo", "sudo outside of the target names a path in it"),
    ("which", "`type -p` finds programs, and not which"),
    ("tabindent", "no line is indented with tabs"),
    ("newline", "programs and documents end with a newline"),
    (
        "blockdevice",
        "a layout in block-device-*.yaml is one that builds take",
    ),
    ("yaml", "YAML and pkg-map can be read"),
    ("flake8", "Python passes flake8, where that is installed"),
];

/// Phases whose hooks run on the host.
const OUTSIDE: [&str; 6] = [
    "root.d",
    "extra-data.d",
    "block-device.d",
    "pre-finalise.d",
    "finalise.d",
    "cleanup.d",
];

/// What leads into the target.
const TARGET: [&str; 6] = [
    "TARGET_ROOT",
    "TMP_MOUNT_PATH",
    "TMP_BUILD_DIR",
    "TMP_IMAGE_PATH",
    "IMAGE_BLOCK_DEVICE",
    "install-packages",
];

/// Checks one file of an element: its path below the directory of elements, its
/// content, and whether it is executable.
pub fn check(path: &str, bytes: &[u8], executable: bool) -> Vec<Finding> {
    let Some(mut file) = File::of(path, bytes) else {
        return Vec::new();
    };
    if executable || file.name().starts_with("source-repository-") {
        file.form();
    }
    file.common(executable);
    if file.is_bash() {
        file.bash();
    }
    // A program may have the name of a file that it reads.
    if !executable {
        file.data();
    }
    file.findings
}

/// Checks what documents in reStructuredText, and files that no element has, are held to:
/// no tabs, and an end of the last line.
pub fn check_form(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let Some(mut file) = File::of(path, bytes) else {
        return Vec::new();
    };
    file.form();
    file.findings
}

/// Checks what an element is made of: paths of files below its directory.
///
/// diskimage-builder's documentation is made of reStructuredText alone. Elements
/// with an `element.yaml` are kiln's, and those have their pages in Markdown.
pub fn check_names<'a>(element: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<Finding> {
    let names: Vec<&str> = names.into_iter().collect();
    let finding = |path: String, rule, message| Finding {
        path,
        line: None,
        rule,
        message,
    };
    let mut findings = Vec::new();
    if !["README.rst", "README.md", "element.yaml"]
        .iter()
        .any(|name| names.contains(name))
    {
        let message = format!("element `{element}` has no README.rst");
        findings.push(finding(element.to_owned(), "readme", message));
    }
    if !names.contains(&"element.yaml") {
        let documents = names.iter().filter(|name| name.ends_with(".md"));
        findings.extend(documents.map(|name| {
            let message = "a document in Markdown, which DIB's documentation leaves out: make it \
                           an .rst, or describe the element in element.yaml";
            finding(format!("{element}/{name}"), "mddocs", message.to_owned())
        }));
    }
    findings
}

/// The rules that a project switches off: words of `ignore`, in the section
/// `dib-lint` of the text of its `tox.ini`.
pub fn ignored(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut continued = false;
    let mut words = Vec::new();
    for line in text.lines() {
        let content = line.trim();
        if content.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            inside = rest.strip_suffix(']').map(str::trim) == Some("dib-lint");
            continued = false;
            continue;
        }
        let value = match content.split_once(['=', ':']) {
            _ if continued && line.starts_with([' ', '\t']) => content,
            Some((key, value)) if key.trim().eq_ignore_ascii_case("ignore") => {
                continued = true;
                value
            }
            _ => {
                continued = false;
                continue;
            }
        };
        if inside {
            words.extend(value.split([' ', '\t', ',']).map(str::to_owned));
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether flake8 has to look at a file itself: Python that does not say so by its
/// name, and that does not switch the rule off.
pub fn is_python(path: &str, bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        let first = text.lines().next().unwrap_or_default();
        first.starts_with("#!")
            && first.contains("python")
            && !path.ends_with(".py")
            && !disabled(text).iter().any(|name| name == "flake8")
    })
}

/// What flake8 printed about a file, as findings.
pub fn flake8_findings(path: &str, output: &str) -> Vec<Finding> {
    let lines = output.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            // `NAME:LINE:COLUMN: CODE TEXT`; the name may have colons itself.
            let (place, message) = line.split_once(": ").unwrap_or(("", line));
            Finding {
                path: path.to_owned(),
                line: place.rsplit(':').nth(1).and_then(|text| text.parse().ok()),
                rule: "flake8",
                message: message.to_owned(),
            }
        })
        .collect()
}

/// The rules that a file switches off.
fn disabled(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix('#'))
        .filter_map(|line| line.trim().strip_prefix("dib-lint:"))
        .flat_map(|rest| {
            let rest = rest.trim();
            let list = rest.strip_prefix("disable=").unwrap_or(rest);
            list.split([' ', ','])
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
    disabled: Vec<String>,
    findings: Vec<Finding>,
}

impl<'a> File<'a> {
    /// Programs, archives and pictures are nobody's style.
    fn of(path: &'a str, bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        (!text.contains('\0')).then(|| File {
            path,
            text,
            disabled: disabled(text),
            findings: Vec::new(),
        })
    }

    fn find(&mut self, rule: &'static str, line: Option<usize>, message: impl Into<String>) {
        if !self.disabled.iter().any(|name| name == rule) {
            self.findings.push(Finding {
                path: self.path.to_owned(),
                line,
                rule,
                message: message.into(),
            });
        }
    }

    fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    fn directory(&self) -> &str {
        Path::new(self.path)
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    fn is_bash(&self) -> bool {
        let first = self.first_line();
        first.starts_with("#!") && first.contains("bash")
    }

    /// Tabs and the end, which count in here-documents as well.
    fn form(&mut self) {
        let text = self.text;
        if !text.is_empty() && !text.ends_with('\n') {
            self.find("newline", None, "the last line has no newline");
        }
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start_matches(' ').starts_with('\t') {
                self.find("tabindent", Some(number), "indented with a tab");
            }
        }
    }

    fn common(&mut self, executable: bool) {
        let first = self.first_line().to_owned();
        let environment = self.directory() == "environment.d";
        if first.starts_with("#!") && !executable && !environment {
            self.find(
                "executable",
                None,
                "it has an interpreter but is not executable",
            );
        }
        if first.starts_with("#!") && first.contains("bash") && first != "#!/bin/bash" {
            self.find(
                "interpreter",
                Some(1),
                format!("`{first}` where `#!/bin/bash` is expected"),
            );
        }
        if environment && executable {
            self.find(
                "environment",
                None,
                "files of environment.d are sourced, not run",
            );
        }
        if !first.starts_with("#!") || first.contains("python") {
            return;
        }
        let text = self.text;
        let mut until = None;
        for (number, line) in (1..).zip(text.lines()) {
            // The text of a here-document is data.
            if let Some(end) = &until {
                if line.trim_start_matches('\t') == end {
                    until = None;
                }
                continue;
            }
            until = here_document(line);
            let indent = line.len() - line.trim_start_matches(' ').len();
            if indent % 4 != 0 && !continues(text, number) {
                self.find(
                    "indent",
                    Some(number),
                    format!("indented by {indent} blanks, which are not a multiple of 4"),
                );
            }
        }
    }

    fn bash(&mut self) {
        let text = self.text;
        let environment = self.directory() == "environment.d";
        let commands: Vec<(usize, &str)> = (1..)
            .zip(text.lines())
            .map(|(number, line)| (number, line.trim()))
            .filter(|(_, line)| !line.starts_with('#'))
            .collect();
        let sets = |short: char, long: &str| {
            commands.iter().any(|(_, line)| {
                line.split([';', '&', '|']).any(|command| {
                    let mut words = command.split_whitespace();
                    words.next() == Some("set")
                        && command.split_whitespace().skip(1).any(|word| {
                            word == long
                                || (word.starts_with('-')
                                    && !word.starts_with("--")
                                    && word.contains(short))
                        })
                })
            })
        };
        if !environment {
            if !sets('e', "errexit") {
                self.find("sete", None, "it does not use `set -e`");
            }
            if !sets('u', "nounset") {
                self.find("setu", None, "it does not use `set -u`");
            }
            if !commands.iter().any(|(_, line)| line.contains("pipefail")) {
                self.find("setpipefail", None, "it does not use `set -o pipefail`");
            }
            if !text.contains("DIB_DEBUG_TRACE") {
                self.find(
                    "dibdebugtrace",
                    None,
                    "it does not look at DIB_DEBUG_TRACE: `if [ ${DIB_DEBUG_TRACE:-0} -gt 0 ]; then set -x; fi`",
                );
            }
        }
        let outside = OUTSIDE.contains(&self.directory());
        for (number, line) in commands {
            if environment && line.starts_with("set -x") {
                self.find(
                    "environment",
                    Some(number),
                    "tracing here traces every hook",
                );
            }
            let exported = line.strip_prefix("export ").map(str::trim_start);
            if exported.is_some_and(|rest| {
                rest.split_once('=')
                    .is_some_and(|(_, value)| value.trim_start_matches('"').starts_with("$("))
            }) {
                self.find(
                    "export",
                    Some(number),
                    "a failure of the command is lost; assign first, export then",
                );
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            if words
                .windows(2)
                .any(|pair| pair[0].trim_start_matches("$(") == "which")
                && !line.contains("dib-lint: which")
            {
                self.find(
                    "which",
                    Some(number),
                    "`type -p` finds programs, `which` may not be there",
                );
            }
            // A command is all the lines that a backslash joins.
            let names_target =
                command_at(text, number).any(|line| TARGET.iter().any(|name| line.contains(name)));
            if outside
                && words.contains(&"sudo")
                && !names_target
                && !line.contains("dib-lint: safe_sudo")
            {
                self.find(
                    "safe_sudo",
                    Some(number),
                    "sudo without a path of the target changes the host; `# dib-lint: safe_sudo` at the line's end allows it",
                );
            }
        }
    }

    fn data(&mut self) {
        let name = self.name();
        let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        if (yaml || name == "pkg-map" || name == "svc-map")
            && let Err(error) = crate::disk::yaml::parse(self.text)
        {
            self.find("yaml", None, format!("it cannot be read: {error}"));
        }
        if name == "pkg-map" && serde_json::from_str::<serde_json::Value>(self.text).is_err() {
            self.find("yaml", None, "it is not JSON");
        }
        if name == "element-deps" {
            let lines: Vec<(usize, &str)> = (1..)
                .zip(self.text.lines().map(str::trim))
                .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
                .collect();
            if let Some(pair) = lines.windows(2).find(|pair| pair[0].1 > pair[1].1) {
                let message = format!("`{}` comes after `{}`", pair[1].1, pair[0].1);
                self.find("sorted", Some(pair[1].0), message);
            }
        }
    }
}

/// The lines of the command that begins on this line.
fn command_at(text: &str, number: usize) -> impl Iterator<Item = &str> {
    let mut joined = true;
    text.lines()
        .skip(number - 1)
        .take_while(move |line| std::mem::replace(&mut joined, line.ends_with('\\')))
}

/// The word that ends a here-document which begins on this line.
fn here_document(line: &str) -> Option<String> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let (_, rest) = line.split_once("<<")?;
    // `<<<` gives a word, and `1 << 2` is arithmetic.
    if rest.starts_with('<') || line.contains("((") {
        return None;
    }
    let word = rest.trim_start_matches('-').trim_start();
    let word: String = word
        .trim_start_matches(['"', '\'', '\\'])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

/// Whether a line goes on with the one before, where blanks align it.
fn continues(text: &str, number: usize) -> bool {
    number > 1
        && text.lines().nth(number - 2).is_some_and(|before| {
            let before = before.trim_end();
            before.ends_with(['\\', '|', '&', '(', ',']) || before.starts_with([' ', '\t'])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#!/bin/bash\nif [ ${DIB_DEBUG_TRACE:-0} -gt 0 ]; then\n    set -x\nfi\n\
        set -eu\nset -o pipefail\necho \"$(type -p x)\"\n";

    fn rules(path: &str, text: &str, executable: bool) -> Vec<&'static str> {
        check(path, text.as_bytes(), executable)
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    #[test]
    fn a_good_script_breaks_no_rule() {
        assert_eq!(rules("e/install.d/50-x", GOOD, true), [""; 0]);
        assert_eq!(
            rules("e/environment.d/10-x", "export A=1\n", false),
            [""; 0]
        );
        assert_eq!(check("e/static/logo", b"\x89PNG\0", false), []);
    }

    #[test]
    fn every_rule_is_found() {
        let with = |line: &str| format!("{GOOD}{line}\n");
        for (path, text, executable, rule) in [
            ("e/install.d/1-x", GOOD.to_owned(), false, "executable"),
            (
                "e/install.d/1-x",
                GOOD.replace("/bin/bash", "/usr/bin/env bash"),
                true,
                "interpreter",
            ),
            (
                "e/install.d/1-x",
                GOOD.replace("set -eu", "set -u"),
                true,
                "sete",
            ),
            (
                "e/install.d/1-x",
                GOOD.replace("set -eu", "set -e"),
                true,
                "setu",
            ),
            (
                "e/install.d/1-x",
                GOOD.replace("set -o pipefail\n", ""),
                true,
                "setpipefail",
            ),
            (
                "e/install.d/1-x",
                GOOD.replace("DIB_DEBUG_TRACE", "X"),
                true,
                "dibdebugtrace",
            ),
            ("e/install.d/1-x", with("export A=$(date)"), true, "export"),
            ("e/install.d/1-x", with("which ls"), true, "which"),
            ("e/install.d/1-x", with("true\n\tfalse"), true, "tabindent"),
            ("e/install.d/1-x", with("true\n  false"), true, "indent"),
            (
                "e/root.d/1-x",
                with("sudo rm -rf /tmp/x"),
                true,
                "safe_sudo",
            ),
            (
                "e/install.d/1-x",
                GOOD.trim_end().to_owned(),
                true,
                "newline",
            ),
            (
                "e/environment.d/1-x.bash",
                "export A=1\n".to_owned(),
                true,
                "environment",
            ),
            ("e/element-deps", "b\na\n".to_owned(), false, "sorted"),
            (
                "e/package-installs.yaml",
                "a: [\n".to_owned(),
                false,
                "yaml",
            ),
            (
                "e/pkg-map",
                "{\"family\": }".to_owned() + "\n",
                false,
                "yaml",
            ),
        ] {
            assert!(
                rules(path, &text, executable).contains(&rule),
                "{rule}: {:?}",
                rules(path, &text, executable)
            );
            let off = format!("{text}\n# dib-lint: disable={rule}\n");
            assert!(
                !rules(path, &off, executable).contains(&rule) || rule == "yaml",
                "{rule}"
            );
            assert!(RULES.iter().any(|(name, _)| *name == rule));
        }
        assert_eq!(check_names("e", ["element-deps"])[0].rule, "readme");
        assert_eq!(check_names("e", ["README.rst"]), []);
        let document = &check_names("e", ["README.rst", "notes/more.md"])[0];
        assert_eq!(
            (document.rule, &*document.path),
            ("mddocs", "e/notes/more.md")
        );
        assert_eq!(check_names("e", ["element.yaml", "README.md"]), []);
    }

    #[test]
    fn a_project_switches_rules_off() {
        for (text, expected) in [
            ("", &[][..]),
            ("[dib-lint]\nignore = sete setu\n", &["sete", "setu"]),
            (
                "[dib-lint]\nignore=\n  sete,\n  # no\n  which\nother = x\n  y\n",
                &["sete", "which"],
            ),
            ("[flake8]\nignore = E1\n[dib-lint]\nx = y\n", &[]),
        ] {
            assert_eq!(ignored(text), expected, "{text}");
        }
    }

    #[test]
    fn python_is_left_to_flake8() {
        assert!(is_python("e/bin/x", b"#!/usr/bin/env python3\nimport os\n"));
        for (path, text) in [
            ("e/bin/x", "#!/bin/bash\n"),
            ("e/bin/x.py", "#!/usr/bin/python3\n"),
            (
                "e/bin/x",
                "#!/usr/bin/python3\n# dib-lint: disable=flake8\n",
            ),
        ] {
            assert!(!is_python(path, text.as_bytes()), "{path}: {text}");
        }
        let found = flake8_findings("e/x", "./a:b/x:3:1: E302 expected 2: blank\nbroken\n");
        assert_eq!((found[0].line, found[1].line), (Some(3), None));
        assert_eq!(found[0].message, "E302 expected 2: blank");
    }

    #[test]
    fn what_only_looks_like_a_mistake_is_none() {
        for line in [
            "cat <<EOF\n  aligned\nEOF",
            "one \\\n  two",
            "# which is better",
            "sudo cp x $TARGET_ROOT/x",
            "sudo cp x y # dib-lint: safe_sudo",
            "sudo cp x \\\n    $TARGET_ROOT/x",
            "run_in_target install-packages sudo",
            "which ls # dib-lint: which",
        ] {
            assert_eq!(
                rules("e/root.d/1-x", &format!("{GOOD}{line}\n"), true),
                [""; 0],
                "{line}"
            );
        }
        for (path, text, executable) in [
            ("e/element-deps", "# b comes first\nb\n\n# then c\nc", false),
            ("e/element-provides", "b\na", false),
            (
                "e/environment.d/10-x",
                "if true; then\n  export A=1\nfi",
                false,
            ),
            ("e/static/etc/x.conf", "a\n\tb", false),
            ("e/bin/pkg-map", "#!/usr/bin/python3\na = {'b': 1}\n", true),
        ] {
            assert_eq!(rules(path, text, executable), [""; 0], "{path}");
        }
        assert_eq!(
            rules("e/source-repository-x", "x git /y z", false),
            ["newline"]
        );
        let form: Vec<&str> = check_form("e/README.rst", b"x\n  \ty")
            .into_iter()
            .map(|finding| finding.rule)
            .collect();
        assert_eq!(form, ["newline", "tabindent"]);
    }
}

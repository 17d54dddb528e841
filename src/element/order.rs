//! Which files of a phase directory are hooks, and in which order they run.
//!
//! The order is that of `sort -n` in the C locale: by the leading number, ties
//! by all bytes of the name. A file name qualifies by `RUN_PARTS_REGEX`.

use std::cmp::Ordering;

use regex_lite::Regex;

use super::Error;

/// Names of hooks unless `RUN_PARTS_REGEX` says otherwise. A dot disqualifies.
pub const DEFAULT_PATTERN: &str = "^[0-9A-Za-z_-]+$";

/// A pattern that the names of hooks must match.
#[derive(Debug, Clone)]
pub struct NamePattern(Regex);

impl NamePattern {
    /// Compiles an extended regular expression; `None` or empty is the default.
    pub fn new(pattern: Option<&str>) -> Result<Self, Error> {
        let pattern = pattern
            .filter(|pattern| !pattern.is_empty())
            .unwrap_or(DEFAULT_PATTERN);
        Regex::new(pattern)
            .map(Self)
            .map_err(|error| Error::Pattern {
                pattern: pattern.to_owned(),
                message: error.to_string(),
            })
    }

    /// Whether a file of this name is a hook.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// Whether a file of `environment.d` is sourced: dots are allowed there.
pub fn is_environment_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Compares two names as `LC_ALL=C sort -n` does.
pub fn compare(a: &str, b: &str) -> Ordering {
    leading_number(a)
        .cmp(&leading_number(b))
        .then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// A number of any length, ordered by value.
#[derive(PartialEq, Eq)]
struct Number<'a> {
    negative: bool,
    /// Digits before the point without leading zeros.
    whole: &'a str,
    /// Digits after the point without trailing zeros.
    fraction: &'a str,
}

impl Number<'_> {
    fn magnitude(&self, other: &Self) -> Ordering {
        self.whole
            .len()
            .cmp(&other.whole.len())
            .then_with(|| self.whole.cmp(other.whole))
            .then_with(|| self.fraction.cmp(other.fraction))
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.magnitude(other),
            (true, true) => other.magnitude(self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Blanks, an optional minus, digits, and a fraction; anything else counts as 0.
fn leading_number(name: &str) -> Number<'_> {
    let text = name.trim_start_matches([' ', '\t', '\n']);
    let (minus, text) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let fraction = rest
        .strip_prefix('.')
        .map_or("", |rest| rest.split_at(digits(rest)).0);
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    Number {
        negative: minus && !(whole.is_empty() && fraction.is_empty()),
        whole,
        fraction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn observed_order_is_reproduced() {
        let expected = "-5q 0-b 00-a _u abc 1_0 9-y 010-x 10-x 100-z";
        let mut names: Vec<&str> = expected.split(' ').collect();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn names_with_dots_are_no_hooks() {
        let pattern = NamePattern::new(None).unwrap();
        for (name, hook) in [
            ("10-a", true),
            ("a_B", true),
            ("a.sh", false),
            ("a b", false),
            ("", false),
            ("é", false),
        ] {
            assert_eq!(pattern.matches(name), hook, "{name:?}");
        }
        assert!(NamePattern::new(Some(r"\.sh$")).unwrap().matches("a.sh"));
        assert!(
            NamePattern::new(Some("^[[:alnum:]]+$"))
                .unwrap()
                .matches("a1")
        );
        let error = NamePattern::new(Some("(")).unwrap_err().to_string();
        assert!(
            error.starts_with("`(` is not a valid pattern of hook names: "),
            "{error}"
        );
    }

    #[test]
    fn environment_names_may_have_dots() {
        assert!(is_environment_name("10-a.bash"));
        assert!(!is_environment_name("10 a"));
        assert!(!is_environment_name(""));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn order_equals_sort_n(mut names in proptest::collection::btree_set("-?[0-9]{0,3}[0-9.a-c_-]{0,4}", 1..12)) {
            names.remove("");
            let names: Vec<String> = names.into_iter().collect();
            let Ok(mut sort) = Command::new("sort").arg("-n").env("LC_ALL", "C")
                .stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
            else {
                println!("SKIP: no `sort` on this machine");
                return Ok(());
            };
            sort.stdin.take().unwrap().write_all((names.join("\n") + "\n").as_bytes()).unwrap();
            let output = sort.wait_with_output().unwrap();
            let mut ours = names.clone();
            ours.sort_by(|a, b| compare(a, b));
            proptest::prop_assert_eq!(ours.join("\n") + "\n", String::from_utf8(output.stdout).unwrap());
        }
    }
}

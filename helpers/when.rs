//! The `when` conditions of package lists: `VAR = value` and `VAR != value`.

/// A parsed condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The environment variable.
    pub variable: String,
    /// Whether it must have the value, or must have another one.
    pub equal: bool,
    /// The value, to the end of the line.
    pub value: String,
}

/// Parses a line: word characters, blanks, `=` or `!=`, blanks, and the literal
/// value, which may be empty and keeps its trailing blanks.
pub(crate) fn parse(line: &str) -> Option<Condition> {
    let end = line
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(line.len());
    let (variable, rest) = line.split_at(end);
    if variable.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let (equal, rest) = match rest.strip_prefix('=') {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix("!=")?),
    };
    let value = rest.trim_start().split('\n').next().unwrap_or_default();
    Some(Condition {
        variable: variable.to_owned(),
        equal,
        value: value.to_owned(),
    })
}

impl Condition {
    /// Whether it holds for the value that the variable has.
    pub(crate) fn holds(&self, actual: &str) -> bool {
        (actual == self.value) == self.equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_literally() {
        for (line, expected) in [
            ("A = b", Some(("A", true, "b"))),
            ("A=b", Some(("A", true, "b"))),
            ("A!=b c", Some(("A", false, "b c"))),
            ("A  !=  b ", Some(("A", false, "b "))),
            ("A == b", Some(("A", true, "= b"))),
            ("A =", Some(("A", true, ""))),
            ("A = \"b\"", Some(("A", true, "\"b\""))),
            (" A = b", None),
            ("A-B = c", None),
            ("A", None),
            ("", None),
            ("A ! = b", None),
            ("A > b", None),
        ] {
            let found = parse(line);
            let found = found
                .as_ref()
                .map(|c| (c.variable.as_str(), c.equal, c.value.as_str()));
            assert_eq!(found, expected, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_well_formed_line_is_understood(
            variable in "[A-Za-z0-9_]{1,12}",
            before in "[ \t]{0,3}",
            equal: bool,
            after in "[ \t]{0,3}",
            value in "([!-~]([ -~]{0,10}[!-~])?)?",
        ) {
            let op = if equal { "=" } else { "!=" };
            let line = format!("{variable}{before}{op}{after}{value}");
            let found = parse(&line).unwrap();
            proptest::prop_assert_eq!(found.holds(&value), equal);
            proptest::prop_assert_eq!(found, Condition { variable, equal, value });
        }

        #[test]
        fn no_line_panics(line in "\\PC{0,40}") {
            let _ = parse(&line);
        }
    }
}

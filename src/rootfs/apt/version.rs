//! Debian version numbers and their order.
//!
//! The order is that of Debian Policy §5.6.12 as dpkg implements it: epoch,
//! then upstream version, then revision, each compared by alternating runs of
//! non-digits and digits, where `~` sorts before everything, even the end.

use std::cmp::Ordering;
use std::fmt;

/// A version as written in a control file: `[epoch:]upstream[-revision]`.
///
/// Equality and order are Debian's, so `1.0` equals `0:1.0-0`; [`Version::as_str`]
/// gives the original text.
#[derive(Debug, Clone)]
pub struct Version {
    text: String,
    epoch: u64,
    /// Byte range of the upstream part begins here.
    upstream: usize,
    /// Byte offset of the `-` before the revision, or the length of the text.
    dash: usize,
}

/// Why a text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a Debian version: {reason}")]
pub struct ParseVersionError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Version {
    /// Parses a version.
    pub fn parse(text: &str) -> Result<Version, ParseVersionError> {
        let fail = |reason| ParseVersionError {
            text: text.to_owned(),
            reason,
        };
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        let (epoch, upstream) = match text.find(':') {
            None => (0, 0),
            Some(colon) => {
                let digits = &text[..colon];
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(fail("the epoch is not a number"));
                }
                let epoch = digits
                    .parse::<u64>()
                    .ok()
                    .filter(|epoch| *epoch <= u64::from(i32::MAX.unsigned_abs()))
                    .ok_or_else(|| fail("the epoch is too large"))?;
                (epoch, colon + 1)
            }
        };
        let dash = text[upstream..]
            .rfind('-')
            .map_or(text.len(), |at| upstream + at);
        if upstream == dash {
            return Err(fail("the upstream version is empty"));
        }
        if dash + 1 == text.len() {
            return Err(fail("the revision is empty"));
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-+~:".contains(&byte);
        if !text[upstream..dash].bytes().all(good) {
            return Err(fail(
                "the upstream version has a character that is not allowed",
            ));
        }
        if dash < text.len() && !text[dash + 1..].bytes().all(|b| good(b) && b != b':') {
            return Err(fail("the revision has a character that is not allowed"));
        }
        Ok(Version {
            text: text.to_owned(),
            epoch,
            upstream,
            dash,
        })
    }

    /// Returns the version as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn upstream(&self) -> &[u8] {
        &self.text.as_bytes()[self.upstream..self.dash]
    }

    fn revision(&self) -> &[u8] {
        self.text.as_bytes().get(self.dash + 1..).unwrap_or(b"")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream(), other.upstream()))
            .then_with(|| compare_part(self.revision(), other.revision()))
    }
}

/// Weight of a byte in a non-digit run; the end of the run weighs 0.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

fn compare_part(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let in_run = |part: &[u8]| part.first().is_some_and(|byte| !byte.is_ascii_digit());
        while in_run(left) || in_run(right) {
            match weight(left.first()).cmp(&weight(right.first())) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            left = left.get(1..).unwrap_or(b"");
            right = right.get(1..).unwrap_or(b"");
        }
        let (left_number, left_rest) = split_number(left);
        let (right_number, right_rest) = split_number(right);
        // Without leading zeros the longer number is the larger one, whatever its size.
        let order = left_number
            .len()
            .cmp(&right_number.len())
            .then_with(|| left_number.cmp(right_number));
        if order != Ordering::Equal {
            return order;
        }
        left = left_rest;
        right = right_rest;
    }
    Ordering::Equal
}

/// Splits the leading digits off, without their leading zeros.
fn split_number(part: &[u8]) -> (&[u8], &[u8]) {
    let end = part
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(part.len());
    let (digits, rest) = part.split_at(end);
    let zeros = digits
        .iter()
        .position(|byte| *byte != b'0')
        .unwrap_or(digits.len());
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).expect(text)
    }

    #[test]
    fn order_follows_policy() {
        // Each list ascends strictly.
        let lists: &[&[&str]] = &[
            &["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a", "1.0+b1", "1.0.1"],
            &[
                "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-2", "1.0-10", "1:0.1", "2:0",
            ],
            &[
                "0.9",
                "0.10",
                "9",
                "10",
                "99999999999999999999998",
                "99999999999999999999999",
            ],
            &["2.36-9", "2.36-9+deb12u1", "2.36-9+deb12u10", "2.36-10"],
            &["1.2.3-1~bpo12+1", "1.2.3-1", "1.2.3-1ubuntu1"],
            &["a", "a-1", "a+", "b"],
        ];
        for list in lists {
            for pair in list.windows(2) {
                assert!(
                    version(pair[0]) < version(pair[1]),
                    "{} < {}",
                    pair[0],
                    pair[1]
                );
                assert!(
                    version(pair[1]) > version(pair[0]),
                    "{} > {}",
                    pair[1],
                    pair[0]
                );
            }
        }
        for (left, right) in [
            ("1.0", "0:1.0"),
            ("1.0", "1.0-0"),
            ("1.00", "1.0"),
            ("01", "1"),
        ] {
            assert_eq!(version(left), version(right));
        }
    }

    #[test]
    fn malformed_versions_are_refused() {
        for text in [
            "",
            ":1",
            "a:1",
            "1:",
            "1-",
            "-1",
            "1 0",
            "1_0",
            "99999999999:1",
            "1-a:b",
            "é",
        ] {
            assert!(Version::parse(text).is_err(), "`{text}`");
        }
    }

    fn any_version() -> impl Strategy<Value = String> {
        "([0-3]:)?[0-9][0-9a-b.+~]{0,6}(-[0-9a-b.+~]{1,4})?"
    }

    proptest! {
        #[test]
        fn order_is_total(a in any_version(), b in any_version(), c in any_version()) {
            let (a, b, c) = (version(&a), version(&b), version(&c));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,20}") {
            let _ = Version::parse(&text);
        }
    }

    #[test]
    fn order_agrees_with_dpkg() {
        use proptest::strategy::ValueTree as _;
        use std::process::Command;

        if Command::new("dpkg").arg("--version").output().is_err() {
            println!("SKIP: no `dpkg` on this host");
            return;
        }
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..150 {
            let mut sample = || {
                let tree = any_version().new_tree(&mut runner).expect("a version");
                tree.current()
            };
            let (left, right) = (sample(), sample());
            let operator = match version(&left).cmp(&version(&right)) {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            let status = Command::new("dpkg")
                .args(["--compare-versions", &left, operator, &right])
                .status()
                .expect("dpkg runs");
            assert!(
                status.success(),
                "dpkg denies `{left}` {operator} `{right}`"
            );
        }
    }
}

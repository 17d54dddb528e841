//! Long names and their 8.3 aliases.

use std::collections::{BTreeMap, BTreeSet};

use super::format::{CASE_LOWER_BASE, CASE_LOWER_EXTENSION, LONG_NAME_UNITS};

/// Longest name in UTF-16 units.
const MAX_UNITS: usize = 255;
/// Largest number after the tilde of an alias.
const MAX_TAIL: u32 = 999_999;

/// Why a name cannot be on a FAT filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// The bytes are not UTF-8, so they cannot become UTF-16.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Too many UTF-16 units.
    #[error("it is longer than 255 UTF-16 units")]
    TooLong,
    /// A character that separates or stands for something.
    #[error("it contains `{}`", .0.escape_default())]
    Character(char),
    /// Drivers strip these, and then the file has another name.
    #[error("it ends with a dot or a space")]
    Trailing,
    /// Another name in the directory differs only in case.
    #[error("another name in its directory differs from it only in case")]
    Duplicate,
    /// More aliases with one beginning than there are numbers.
    #[error("too many names in its directory begin like it")]
    NoAlias,
}

/// A name as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredName {
    /// Eight characters and three of the suffix, padded with spaces.
    pub short: [u8; 11],
    /// Which parts of `short` are shown in lower case.
    pub case: u8,
    /// The long name; empty where `short` and `case` say it all.
    pub long: Vec<u16>,
}

impl StoredName {
    /// Directory entries that it takes.
    pub fn entries(&self) -> usize {
        self.long.len().div_ceil(LONG_NAME_UNITS) + 1
    }
}

/// Names of one directory; `names` gives the index of a name that is refused.
///
/// Names that are valid aliases keep them, whatever the order; the others get
/// the first free number after a tilde, in the order given.
pub(super) fn store_names(names: &[&[u8]]) -> Result<Vec<StoredName>, (usize, NameProblem)> {
    let mut folded = BTreeSet::new();
    let mut texts = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let text = check(name).map_err(|problem| (at, problem))?;
        if !folded.insert(text.chars().map(fold).collect::<String>()) {
            return Err((at, NameProblem::Duplicate));
        }
        texts.push(text);
    }
    let exact: Vec<_> = texts.iter().map(|text| exact_alias(text)).collect();
    let mut taken: BTreeSet<[u8; 11]> = exact.iter().flatten().map(|(short, _)| *short).collect();
    let mut next_tails = BTreeMap::new();
    let mut stored = Vec::with_capacity(names.len());
    for (at, (text, exact)) in texts.iter().zip(exact).enumerate() {
        let long = || text.encode_utf16().collect();
        stored.push(match exact {
            Some((short, Some(case))) => StoredName {
                short,
                case,
                long: Vec::new(),
            },
            // A valid alias but for mixed case, which only the long name keeps.
            Some((short, None)) => StoredName {
                short,
                case: 0,
                long: long(),
            },
            None => {
                let short = numbered_alias(text, &mut taken, &mut next_tails)
                    .ok_or((at, NameProblem::NoAlias))?;
                StoredName {
                    short,
                    case: 0,
                    long: long(),
                }
            }
        });
    }
    Ok(stored)
}

/// The name as text, if it can be stored at all.
fn check(name: &[u8]) -> Result<&str, NameProblem> {
    let text = std::str::from_utf8(name).map_err(|_| NameProblem::NotUtf8)?;
    let forbidden = |c: char| c < ' ' || c == '\u{7F}' || "\"*/:<>?\\|".contains(c);
    if let Some(character) = text.chars().find(|&c| forbidden(c)) {
        return Err(NameProblem::Character(character));
    }
    if text.ends_with(['.', ' ']) || text.is_empty() {
        return Err(NameProblem::Trailing);
    }
    if text.encode_utf16().count() > MAX_UNITS {
        return Err(NameProblem::TooLong);
    }
    Ok(text)
}

/// A character as names are compared: upper case where that is one character.
fn fold(character: char) -> char {
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => character,
    }
}

/// Whether a character may be in an alias, after it was made upper case.
fn in_alias(character: char) -> bool {
    character.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(character)
}

/// The alias of a name that needs no number, and its case where that is uniform
/// in both parts.
fn exact_alias(text: &str) -> Option<([u8; 11], Option<u8>)> {
    let (base, extension) = match text.rsplit_once('.') {
        Some((base, extension)) => (base, extension),
        None => (text, ""),
    };
    let dot_without_extension = text.contains('.') && extension.is_empty();
    if base.is_empty() || base.len() > 8 || extension.len() > 3 || dot_without_extension {
        return None;
    }
    if !base.chars().chain(extension.chars()).all(in_alias) {
        return None;
    }
    let case = |part: &str, bit: u8| match (
        part.bytes().any(|byte| byte.is_ascii_lowercase()),
        part.bytes().any(|byte| byte.is_ascii_uppercase()),
    ) {
        (true, true) => None,
        (true, false) => Some(bit),
        (false, _) => Some(0),
    };
    let case = case(base, CASE_LOWER_BASE)
        .zip(case(extension, CASE_LOWER_EXTENSION))
        .map(|(base, extension)| base | extension);
    Some((
        padded(&base.to_ascii_uppercase(), &extension.to_ascii_uppercase()),
        case,
    ))
}

/// Both parts of an alias in their fields; they fit and are ASCII.
fn padded(base: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    for (to, from) in short[..8].iter_mut().zip(base.bytes()) {
        *to = from;
    }
    for (to, from) in short[8..].iter_mut().zip(extension.bytes()) {
        *to = from;
    }
    short
}

/// `BEGINNI~1.EXT` with the first number that is free.
fn numbered_alias(
    text: &str,
    taken: &mut BTreeSet<[u8; 11]>,
    next_tails: &mut BTreeMap<(String, String), u32>,
) -> Option<[u8; 11]> {
    let part = |text: &str, length: usize| -> String {
        let kept = text.chars().filter(|&c| c != ' ' && c != '.');
        let safe = kept.map(|c| {
            if in_alias(c) {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        });
        safe.take(length).collect()
    };
    let trimmed = text.trim_start_matches(['.', ' ']);
    let (base, extension) = trimmed.rsplit_once('.').unwrap_or((trimmed, ""));
    let (mut base, extension) = (part(base, 8), part(extension, 3));
    if base.is_empty() {
        base.push('_');
    }
    // Names that share this beginning compete for the same numbers.
    let key = (base.chars().take(6).collect(), extension.clone());
    let next = next_tails.entry(key).or_insert(1);
    while *next <= MAX_TAIL {
        let tail = format!("~{next}");
        *next += 1;
        let kept: String = base.chars().take(8 - tail.len()).collect();
        let short = padded(&(kept + &tail), &extension);
        if taken.insert(short) {
            return Some(short);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases(names: &[&str]) -> Vec<String> {
        let names: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
        store_names(&names)
            .unwrap()
            .into_iter()
            .map(|name| {
                let mark = if name.long.is_empty() { "" } else { "+" };
                format!("{}{mark}", String::from_utf8(name.short.to_vec()).unwrap())
            })
            .collect()
    }

    #[test]
    fn names_that_are_aliases_keep_them() {
        assert_eq!(
            aliases(&[
                "EFI",
                "grub.cfg",
                "BOOTX64.EFI",
                "Mixed.Txt",
                "a-_~1.b",
                "lower.UP"
            ]),
            [
                "EFI        ",
                "GRUB    CFG",
                "BOOTX64 EFI",
                "MIXED   TXT+",
                "A-_~1   B  ",
                "LOWER   UP "
            ]
        );
        let stored = store_names(&[b"grub.cfg", b"lower.UP", b"UPPER.low", b"1234.5"]).unwrap();
        let cases: Vec<_> = stored.iter().map(|name| name.case).collect();
        assert_eq!(cases, [0x18, 0x08, 0x10, 0]);
    }

    #[test]
    fn other_names_get_numbers_in_order_around_those_that_are_taken() {
        assert_eq!(
            aliases(&[
                "loader.config",
                "loader.configuration",
                "LOADER~2.CON",
                ".hidden",
                "two.dots.txt",
                "with space",
                "grüße.txt",
                "a+b",
            ]),
            [
                "LOADER~1CON+",
                "LOADER~3CON+",
                "LOADER~2CON",
                "HIDDEN~1   +",
                "TWODOT~1TXT+",
                "WITHSP~1   +",
                "GR__E~1 TXT+",
                "A_B~1      +",
            ]
        );
        let many: Vec<String> = (0..1200)
            .map(|n| format!("vmlinuz-6.1.{n}-amd64"))
            .collect();
        let many: Vec<&[u8]> = many.iter().map(|name| name.as_bytes()).collect();
        let stored = store_names(&many).unwrap();
        // The last dot begins the suffix: `0-amd64`.
        assert_eq!(&stored[0].short, b"VMLINU~10-A");
        let distinct: BTreeSet<_> = stored.iter().map(|name| name.short).collect();
        assert_eq!(distinct.len(), 1200);
    }

    #[test]
    fn names_that_fat_cannot_hold_are_refused() {
        for (names, at, problem) in [
            (&[&b"ok"[..], b"a:b"][..], 1, NameProblem::Character(':')),
            (&[b"new\nline"], 0, NameProblem::Character('\n')),
            (&[b"\xFF"], 0, NameProblem::NotUtf8),
            (&[b"dot."], 0, NameProblem::Trailing),
            (&[b"space "], 0, NameProblem::Trailing),
            (&[b"README", b"readme"], 1, NameProblem::Duplicate),
            (
                &["GRÜN".as_bytes(), "grün".as_bytes()],
                1,
                NameProblem::Duplicate,
            ),
        ] {
            assert_eq!(store_names(names), Err((at, problem)));
        }
        assert_eq!(store_names(&[&[b'n'; 256]]), Err((0, NameProblem::TooLong)));
        assert!(store_names(&[&[b'n'; 255]]).is_ok());
    }
}

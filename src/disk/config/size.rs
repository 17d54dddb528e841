//! Sizes with units, as DIB writes them.

use crate::disk::mbr::Size;

/// Why text is no size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// Not a number followed by a unit.
    #[error("Invalid size unit spec [{text}]: write a number and a unit, such as 10GiB")]
    Spec {
        /// What was written.
        text: String,
    },
    /// A unit that is not known.
    #[error(
        "unit_str [{unit}] not known: use B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB, \
         K, M, G, T (powers of 1000)"
    )]
    Unit {
        /// What was written.
        unit: String,
    },
    /// Digits that are no number.
    #[error("`{text}` is not a number")]
    Number {
        /// What was written.
        text: String,
    },
    /// More than 64 bits of bytes.
    #[error("`{text}` is more than a disk can hold")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// Reads an absolute size, in bytes.
///
/// Units are case-sensitive; `G` is 10⁹ and `GiB` 2³⁰. A unit alone means one of
/// it. Fractions are cut off.
///
/// # Errors
/// See [`SizeError`].
pub fn absolute(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.strip_suffix('\n').unwrap_or(text);
    let digits = trimmed
        .bytes()
        .position(|byte| !(byte.is_ascii_digit() || byte == b'.'))
        .unwrap_or(trimmed.len());
    let (number, rest) = trimmed.split_at(digits);
    let unit = rest.strip_prefix(' ').unwrap_or(rest);
    if !unit
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return Err(SizeError::Spec {
            text: text.to_owned(),
        });
    }
    let factor: u64 = match unit {
        "TiB" => 1 << 40,
        "GiB" => 1 << 30,
        "MiB" => 1 << 20,
        "KiB" => 1 << 10,
        "TB" | "T" => 1_000_000_000_000,
        "GB" | "G" => 1_000_000_000,
        "MB" | "M" => 1_000_000,
        "KB" | "K" => 1_000,
        "B" | "" => 1,
        _ => {
            return Err(SizeError::Unit {
                unit: unit.to_owned(),
            });
        }
    };
    let number: f64 = match number {
        "" => 1.0,
        number => number.parse().map_err(|_| SizeError::Number {
            text: number.to_owned(),
        })?,
    };
    // Double precision and truncation, as DIB computes.
    #[allow(clippy::cast_precision_loss)]
    let bytes = factor as f64 * number;
    #[allow(clippy::cast_precision_loss)]
    if bytes >= u64::MAX as f64 {
        return Err(SizeError::TooLarge {
            text: text.to_owned(),
        });
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(bytes as u64)
}

/// Reads an absolute size or a percentage of what is free.
///
/// # Errors
/// See [`SizeError`].
pub fn absolute_or_percent(text: &str) -> Result<Size, SizeError> {
    match text.strip_suffix('%') {
        Some(number) => match number.trim().parse::<f64>() {
            Ok(percent) if percent.is_finite() => Ok(Size::Percent(percent)),
            _ => Err(SizeError::Number {
                text: number.to_owned(),
            }),
        },
        None => absolute(text).map(Size::Bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn absolute_sizes_are_those_of_upstream() {
        let cases: &[(&str, u64)] = &[
            ("154MiB", 161_480_704),
            ("198", 198),
            ("20TiB", 20 << 40),
            ("1024KiB", 1 << 20),
            ("1.2TB", 1_200_000_000_000),
            ("2.4T", 2_400_000_000_000),
            ("512B", 512),
            ("364", 364),
            ("", 1),
            ("MiB", 1 << 20),
            ("0.5GiB", 536_870_912),
            ("10 GiB", 10_737_418_240),
            ("1.75TB", 1_750_000_000_000),
            ("1KB", 1000),
            (".5M", 500_000),
            ("5.M", 5_000_000),
            ("40G", 40_000_000_000),
            ("8MiB\n", 8 << 20),
        ];
        for &(text, bytes) in cases {
            assert_eq!(absolute(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        for (text, message) in [
            ("747InVaLiDUnIt", "unit_str [InVaLiDUnIt] not known"),
            ("_+!HuHi+-=", "Invalid size unit spec [_+!HuHi+-=]"),
            ("10  GiB", "Invalid size unit spec"),
            ("1k", "unit_str [k] not known"),
            ("k", "unit_str [k] not known"),
            ("1PiB", "unit_str [PiB] not known"),
            ("1e3", "unit_str [e3] not known"),
            (" 10", "unit_str [10] not known"),
            ("-5", "Invalid size unit spec [-5]"),
            ("+5", "Invalid size unit spec [+5]"),
            ("5%", "Invalid size unit spec [5%]"),
            ("1.2.3", "`1.2.3` is not a number"),
            (
                "99999999999TiB",
                "`99999999999TiB` is more than a disk can hold",
            ),
        ] {
            let error = absolute(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        assert!(absolute_or_percent("%").is_err());
        assert!(absolute_or_percent("inf%").is_err());
    }

    #[test]
    fn percentages_are_of_what_is_free() {
        for (text, free, bytes) in [
            ("50 %", 1001, 500),
            ("33 %", 1_069_547_520, 352_950_681),
            ("12.5%", 1000, 125),
            ("5 %", 100, 5),
            ("150 %", 100, 150),
            ("-5%", 100, 0),
            ("154MiB", 7, 161_480_704),
        ] {
            assert_eq!(absolute_or_percent(text).unwrap().of(free), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*", free: u64) {
            if let Ok(size) = absolute_or_percent(&text) {
                size.of(free);
            }
        }
    }
}

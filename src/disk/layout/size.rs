//! How large an image becomes if nobody says it exactly: DIB's rule.

/// What the rule looks at. Everything as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeRule<'a> {
    /// `DIB_IMAGE_SIZE`, in GiB; may have a fraction, and text behind the number.
    pub image_size: Option<&'a str>,
    /// `DIB_IMAGE_EXTRA_SIZE`, in MiB, instead of the usual 67 %; may have a fraction, and
    /// may be nothing.
    pub extra_size: Option<&'a str>,
    /// What the target occupies, in KiB, as `du` counts.
    pub du_kib: u64,
    /// The root filesystem is ext4, so that it has a journal.
    pub root_is_ext4: bool,
    /// `DIB_JOURNAL_SIZE`, in MiB.
    pub journal_mib: u64,
    /// The layout has an EFI system partition of 550 MiB (`block-device-efi*`).
    pub efi: bool,
}

impl Default for SizeRule<'_> {
    fn default() -> Self {
        SizeRule {
            image_size: None,
            extra_size: None,
            du_kib: 0,
            root_is_ext4: true,
            journal_mib: SizeRule::JOURNAL_MIB,
            efi: false,
        }
    }
}

impl SizeRule<'_> {
    /// Size of the journal that DIB gives the root filesystem, in MiB.
    pub const JOURNAL_MIB: u64 = 64;
    /// What is added for an EFI system partition, in MiB.
    const EFI_MIB: u64 = 525;
    /// Images are rounded up to this, in KiB.
    const UNIT_KIB: u64 = 64;

    /// The length of the image in KiB.
    ///
    /// Without an explicit size: 1/0.6 of the content (or the content and the
    /// extra size), the journal, and the EFI system partition. An explicit size
    /// is taken as it is; DIB would add 525 MiB to it on EFI layouts, although
    /// the user said how large the image must be.
    ///
    /// # Errors
    /// If a number cannot be read or the image would be absurdly large.
    pub fn image_size_kib(&self) -> Result<u64, SizeRuleError> {
        let too_large = || SizeRuleError::TooLarge;
        let kib = match (self.image_size, self.extra_size) {
            (Some(text), _) => {
                let name = "DIB_IMAGE_SIZE";
                let kib = scaled(name, text, 1024 * 1024)?;
                if kib == 0 {
                    return Err(SizeRuleError::number(name, text));
                }
                kib
            }
            (None, extra) => {
                let base = match extra {
                    Some(text) => self
                        .du_kib
                        .checked_add(scaled("DIB_IMAGE_EXTRA_SIZE", text, 1024)?)
                        .ok_or_else(too_large)?,
                    // du / 0.6, rounded toward zero.
                    None => self.du_kib.checked_mul(5).ok_or_else(too_large)? / 3,
                };
                let journal = if self.root_is_ext4 {
                    self.journal_mib
                } else {
                    0
                };
                let efi = if self.efi { Self::EFI_MIB } else { 0 };
                journal
                    .checked_add(efi)
                    .and_then(|mib| mib.checked_mul(1024))
                    .and_then(|kib| base.checked_add(kib))
                    .ok_or_else(too_large)?
            }
        };
        let rounded = kib
            .checked_next_multiple_of(Self::UNIT_KIB)
            .ok_or_else(too_large)?;
        // Must still be a number of bytes.
        rounded
            .checked_mul(1024)
            .map(|_| rounded)
            .ok_or_else(too_large)
    }
}

/// Why no size can be computed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeRuleError {
    /// Text that does not begin with a number.
    #[error("`{variable}` must begin with a positive number, such as 4 or 2.5, but is `{text}`")]
    Number {
        /// The variable.
        variable: &'static str,
        /// Its value.
        text: String,
    },
    /// More than 64 bits of bytes.
    #[error("the image would be larger than any disk")]
    TooLarge,
}

impl SizeRuleError {
    fn number(variable: &'static str, text: &str) -> Self {
        Self::Number {
            variable,
            text: text.to_owned(),
        }
    }
}

/// The number at the start of `text`, as awk reads it, times `factor`.
fn scaled(variable: &'static str, text: &str, factor: u32) -> Result<u64, SizeRuleError> {
    let number = text.trim_start();
    let mut dots = 0;
    let length = number
        .bytes()
        .position(|byte| {
            dots += u32::from(byte == b'.');
            !(byte.is_ascii_digit() || byte == b'.' && dots == 1)
        })
        .unwrap_or(number.len());
    let value: f64 = number[..length]
        .parse()
        .map_err(|_| SizeRuleError::number(variable, text))?;
    let value = value * f64::from(factor);
    #[allow(clippy::cast_precision_loss)]
    if value >= (u64::MAX / 1024) as f64 {
        return Err(SizeRuleError::TooLarge);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_sizes_are_those_of_upstream() {
        let du = |du_kib| SizeRule {
            du_kib,
            ..SizeRule::default()
        };
        let size = |image_size| SizeRule {
            image_size: Some(image_size),
            ..SizeRule::default()
        };
        for (rule, kib) in [
            (size("1"), 1_048_576),
            (size("2.5"), 2_621_440),
            (size("6GiB"), 6 * 1_048_576),
            (size("0.1"), 104_896),
            (du(1_000_000), 1_732_224),
            (
                SizeRule {
                    efi: true,
                    ..du(1_000_000)
                },
                2_269_824,
            ),
            (
                SizeRule {
                    root_is_ext4: false,
                    ..du(1_000_000)
                },
                1_666_688,
            ),
            (
                SizeRule {
                    extra_size: Some("500"),
                    ..du(1_000_000)
                },
                1_577_536,
            ),
            (
                SizeRule {
                    extra_size: Some("1.5"),
                    ..du(1_000_000)
                },
                1_067_072,
            ),
            (
                SizeRule {
                    extra_size: Some("0"),
                    ..du(1_000_000)
                },
                1_065_536,
            ),
            (du(1_234_567), 2_123_200),
        ] {
            assert_eq!(rule.image_size_kib(), Ok(kib), "{rule:?}");
        }
    }

    #[test]
    fn an_explicit_size_does_not_grow() {
        let rule = SizeRule {
            image_size: Some("4"),
            du_kib: 1_000_000,
            efi: true,
            ..SizeRule::default()
        };
        assert_eq!(rule.image_size_kib(), Ok(4 * 1_048_576));
    }

    #[test]
    fn sizes_that_are_none_say_so() {
        for text in ["", "big", "-1", "0", ".", "GiB5"] {
            let rule = SizeRule {
                image_size: Some(text),
                ..SizeRule::default()
            };
            let error = rule.image_size_kib().unwrap_err().to_string();
            let expected = format!(
                "`DIB_IMAGE_SIZE` must begin with a positive number, such as 4 or 2.5, but is \
                 `{text}`"
            );
            assert_eq!(error, expected);
        }
        let huge = SizeRule {
            image_size: Some("99999999999999"),
            ..SizeRule::default()
        };
        assert_eq!(huge.image_size_kib(), Err(SizeRuleError::TooLarge));
        let huge = SizeRule {
            du_kib: u64::MAX,
            ..SizeRule::default()
        };
        assert_eq!(huge.image_size_kib(), Err(SizeRuleError::TooLarge));
    }
}

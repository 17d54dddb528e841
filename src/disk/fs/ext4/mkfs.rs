//! The subset of mke2fs's options that kiln understands.

use super::Error;
use super::format::Compat;
use super::options::{Features, JournalSize, OnErrors, Options, QuotaTypes};

impl Options {
    /// Applies options as a shell would give them to `mkfs.ext4`, on top of these.
    ///
    /// # Errors
    ///
    /// Those of [`Options::apply_mkfs`], and [`Error::BadOption`] for quotes that are
    /// not closed.
    pub fn parse_mkfs(&mut self, text: &str) -> Result<(), Error> {
        let words = shlex::split(text).ok_or_else(|| bad(text, "its quotes are not closed"))?;
        self.apply_mkfs(words)
    }

    /// Applies options as `mkfs.ext4` gets them, on top of these.
    ///
    /// | option | meaning |
    /// |---|---|
    /// | `-b SIZE` | bytes in a block: 1024, 2048, 4096 |
    /// | `-i RATIO`, `-N COUNT` | bytes of the filesystem per inode; number of inodes |
    /// | `-I SIZE` | bytes in an inode |
    /// | `-m PERCENT` | blocks reserved for root |
    /// | `-L LABEL`, `-U UUID` | label and UUID; `clear` is none, `random` and `time` are one that kiln makes |
    /// | `-j`, `-J size=MIB` | journal; 0 is none |
    /// | `-E resize=BLOCKS` | size up to which the mounted filesystem can grow |
    /// | `-E hash_seed=UUID` | seed of directory hashes |
    /// | `-E root_owner=UID:GID` | owner of the root directory |
    /// | `-E stride=BLOCKS`, `stripe_width=BLOCKS` | the RAID below it |
    /// | `-E mount_opts=OPTIONS` | mount options that are always used |
    /// | `-E quotatype=TYPE:…` | `usrquota`, `grpquota`, `prjquota`: what `-O quota` keeps |
    /// | `-J checksum=3` | checksums in the journal from the start (kiln's own) |
    /// | `-e continue`, `remount-ro`, `panic` | what the kernel does about errors |
    /// | `-g BLOCKS` | blocks of a group |
    /// | `-G GROUPS` | groups whose metadata is stored together |
    /// | `-M DIRECTORY` | where it was last mounted |
    /// | `-O [^]FEATURE,…` | features; `none` switches all off |
    /// | `-E lazy_itable_init`, `lazy_journal_init`, `discard`, `nodiscard`, `packed_meta_blocks`, `assume_storage_prezeroed`, `-D`, `-F`, `-K`, `-q`, `-v` | accepted; nothing to do |
    ///
    /// Numbers take the suffixes k, m, g and t (powers of 1024).
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedOption`] names an option that is not listed here,
    /// [`Error::BadOption`] one whose value is not usable.
    pub fn apply_mkfs(&mut self, words: impl IntoIterator<Item = String>) -> Result<(), Error> {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(letters) = word
                .strip_prefix('-')
                .filter(|rest| !rest.is_empty() && !rest.starts_with('-'))
            else {
                return Err(Error::UnsupportedOption { option: word });
            };
            let mut rest = letters.chars();
            while let Some(letter) = rest.next() {
                match letter {
                    'D' | 'F' | 'K' | 'q' | 'v' => continue,
                    'j' => {
                        self.features.compat.insert(Compat::HAS_JOURNAL);
                        continue;
                    }
                    'b' | 'i' | 'I' | 'N' | 'm' | 'L' | 'U' | 'J' | 'E' | 'O' | 'e' | 'g' | 'G'
                    | 'M' => {}
                    _ => {
                        return Err(Error::UnsupportedOption {
                            option: format!("-{letter}"),
                        });
                    }
                }
                let value = if rest.as_str().is_empty() {
                    words
                        .next()
                        .ok_or_else(|| bad(&format!("-{letter}"), "it needs a value"))?
                } else {
                    rest.as_str().to_owned()
                };
                self.apply(letter, &value)?;
                break;
            }
        }
        self.check()
    }

    fn apply(&mut self, letter: char, value: &str) -> Result<(), Error> {
        let option = format!("-{letter} {value}");
        let too_large = |_| bad(&option, "the number is too large");
        match letter {
            'b' => self.block_size = u32::try_from(number(&option, value)?).map_err(too_large)?,
            'i' => {
                self.bytes_per_inode = u32::try_from(number(&option, value)?).map_err(too_large)?
            }
            'I' => self.inode_size = u16::try_from(number(&option, value)?).map_err(too_large)?,
            'N' => self.inodes = Some(u32::try_from(number(&option, value)?).map_err(too_large)?),
            'm' => self.reserved = percent(&option, value)?,
            'L' => self.label = value.to_owned(),
            // One is made without the option too.
            'U' if matches!(value, "random" | "time") => {}
            'U' if value == "clear" => self.uuid = [0; 16],
            'U' => self.uuid = uuid(&option, value)?,
            'M' => self.last_mounted = value.to_owned(),
            'g' => {
                let blocks = u32::try_from(number(&option, value)?).map_err(too_large)?;
                self.blocks_per_group = Some(blocks);
            }
            'G' => {
                self.groups_per_flex = u32::try_from(number(&option, value)?).map_err(too_large)?;
            }
            'e' => {
                self.on_errors = match value {
                    "continue" => OnErrors::Continue,
                    "remount-ro" => OnErrors::RemountReadOnly,
                    "panic" => OnErrors::Panic,
                    _ => return Err(bad(&option, "it is continue, remount-ro or panic")),
                };
            }
            'J' => {
                for part in value.split(',') {
                    match part.split_once('=') {
                        Some(("size", size)) => {
                            let size = number(&option, size)?;
                            self.journal =
                                JournalSize::Mebibytes(u32::try_from(size).map_err(too_large)?);
                            self.features.compat.set(Compat::HAS_JOURNAL, size > 0);
                        }
                        Some(("checksum", "3")) => self.journal_checksums = true,
                        _ => {
                            return Err(Error::UnsupportedOption {
                                option: format!("-J {part}"),
                            });
                        }
                    }
                }
            }
            'E' => {
                for part in value.split(',') {
                    self.apply_extended(part)?;
                }
            }
            _ => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    self.apply_feature(name)?;
                }
            }
        }
        Ok(())
    }

    fn apply_extended(&mut self, part: &str) -> Result<(), Error> {
        let option = format!("-E {part}");
        match part.split_once('=') {
            Some(("resize", blocks)) => self.max_online_resize = Some(number(&option, blocks)?),
            Some(("hash_seed", seed)) => self.hash_seed = uuid(&option, seed)?,
            Some(("stride", blocks)) => {
                self.stride = u16::try_from(number(&option, blocks)?)
                    .map_err(|_| bad(&option, "the number is too large"))?;
            }
            Some(("stripe_width" | "stripe-width", blocks)) => {
                self.stripe_width = u32::try_from(number(&option, blocks)?)
                    .map_err(|_| bad(&option, "the number is too large"))?;
            }
            Some(("quotatype", names)) => {
                let mut types = QuotaTypes::empty();
                for name in names.split(':') {
                    types |= match name {
                        "usrquota" => QuotaTypes::USER,
                        "grpquota" => QuotaTypes::GROUP,
                        "prjquota" => QuotaTypes::PROJECT,
                        _ => {
                            return Err(bad(
                                &option,
                                "it is usrquota, grpquota and prjquota, with colons between",
                            ));
                        }
                    };
                }
                self.quota_types = Some(types);
            }
            Some(("mount_opts", options)) => self.mount_options = options.to_owned(),
            Some(("root_owner", owner)) => {
                let ids = owner
                    .split_once(':')
                    .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
                self.root_owner = Some(ids.ok_or_else(|| bad(&option, "it is UID:GID"))?);
            }
            // Everything is initialised: there is nothing to be lazy about.
            Some((
                "lazy_itable_init"
                | "lazy_journal_init"
                | "packed_meta_blocks"
                | "assume_storage_prezeroed",
                "0" | "1",
            )) => {}
            None if matches!(
                part,
                "lazy_itable_init"
                    | "lazy_journal_init"
                    | "discard"
                    | "nodiscard"
                    | "packed_meta_blocks"
            ) => {}
            _ => return Err(Error::UnsupportedOption { option }),
        }
        Ok(())
    }

    fn apply_feature(&mut self, name: &str) -> Result<(), Error> {
        if name == "none" {
            self.features = Features {
                compat: Compat::empty(),
                incompat: super::format::Incompat::empty(),
                ro_compat: super::format::RoCompat::empty(),
            };
            return Ok(());
        }
        let (name, on) = match name.strip_prefix('^') {
            Some(name) => (name, false),
            None => (name, true),
        };
        // Features that are never written may be switched off.
        const NEVER: [&str; 9] = [
            "uninit_bg",
            "inline_data",
            "encrypt",
            "casefold",
            "bigalloc",
            "meta_bg",
            "mmp",
            "verity",
            "sparse_super2",
        ];
        if self.features.set(name, on) || (!on && NEVER.contains(&name)) {
            return Ok(());
        }
        Err(Error::UnsupportedOption {
            option: format!("-O {name}"),
        })
    }
}

fn bad(option: &str, reason: &str) -> Error {
    Error::BadOption {
        option: option.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A number with an optional suffix (powers of 1024).
fn number(option: &str, text: &str) -> Result<u64, Error> {
    let shift = match text.bytes().last().map(|byte| byte.to_ascii_lowercase()) {
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        Some(b't') => 40,
        _ => 0,
    };
    let digits = if shift > 0 {
        &text[..text.len() - 1]
    } else {
        text
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| bad(option, "a number is expected"))
}

/// A percentage in hundredths, with at most two decimals.
fn percent(option: &str, text: &str) -> Result<u32, Error> {
    let wrong = || bad(option, "a percentage from 0 to 50 is expected");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 2 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u32 = match whole {
        "" if !decimals.is_empty() => 0,
        whole => whole.parse().map_err(|_| wrong())?,
    };
    let decimals: u32 = format!("{decimals:0<2}").parse().map_err(|_| wrong())?;
    if whole > 50 {
        return Err(wrong());
    }
    Ok(whole * 100 + decimals)
}

fn uuid(option: &str, text: &str) -> Result<[u8; 16], Error> {
    uuid::Uuid::parse_str(text)
        .map(uuid::Uuid::into_bytes)
        .map_err(|_| bad(option, "a UUID is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fs::ext4::format::RoCompat;

    fn parse(text: &str) -> Result<Options, Error> {
        let mut options = Options::new([1; 16]);
        options.parse_mkfs(text).map(|()| options)
    }

    #[test]
    fn options_of_diskimage_builder_are_understood() {
        let options = parse("-E resize=536870912 -O ^metadata_csum -i 4096 -J size=64").unwrap();
        assert_eq!(options.bytes_per_inode, 4096);
        assert_eq!(options.journal, JournalSize::Mebibytes(64));
        assert_eq!(options.max_online_resize, Some(536_870_912));
        assert!(!options.features.ro_compat.contains(RoCompat::METADATA_CSUM));
    }

    #[test]
    fn a_limit_of_resizing_counts_more_than_its_feature() {
        let limited = parse("-E resize=1000000 -O ^resize_inode").unwrap();
        let features = |options: &Options| options.normalised().features.compat;
        assert!(features(&limited).contains(Compat::RESIZE_INODE));
        let unlimited = parse("-O ^resize_inode").unwrap();
        assert!(!features(&unlimited).contains(Compat::RESIZE_INODE));
    }

    #[test]
    fn values_may_be_attached_and_have_suffixes() {
        let options = parse("-b1k -I 128 -m 2.5 -N 10k -L 'my root' -Fq").unwrap();
        assert_eq!(options.block_size, 1024);
        assert_eq!(options.inode_size, 128);
        assert_eq!(options.reserved, 250);
        assert_eq!(options.inodes, Some(10240));
        assert_eq!(options.label, "my root");
        assert_eq!(parse("-m .5").unwrap().reserved, 50);
        assert_eq!(parse("-U random").unwrap().uuid, [1; 16]);
        assert_eq!(parse("-U clear").unwrap().uuid, [0; 16]);
    }

    #[test]
    fn what_only_the_superblock_says_is_understood() {
        let options = parse(
            "-e remount-ro -G 32 -M /srv -E stride=16,stripe_width=64,root_owner=7:8 \
             -E mount_opts=nodelalloc -J checksum=3 -O large_dir,ea_inode",
        )
        .unwrap();
        assert_eq!(options.on_errors, OnErrors::RemountReadOnly);
        assert_eq!(options.groups_per_flex, 32);
        assert_eq!(options.last_mounted, "/srv");
        assert_eq!((options.stride, options.stripe_width), (16, 64));
        assert_eq!(options.root_owner, Some((7, 8)));
        assert_eq!(options.mount_options, "nodelalloc");
        assert!(options.journal_checksums);
    }

    #[test]
    fn an_unknown_option_is_named_in_the_error() {
        for (text, named) in [
            ("-c", "`-c`"),
            ("-O bigalloc", "`-O bigalloc`"),
            ("-E offset=4", "`-E offset=4`"),
            ("-E quotatype=all", "`-E quotatype=all`"),
            ("-E quotatype=prjquota", "`-E quotatype=prjquota`"),
            ("-G 3", "`-G 3`"),
            ("-e sometimes", "`-e sometimes`"),
            ("-E root_owner=root", "`-E root_owner=root`"),
            (
                "-O metadata_csum_seed,^metadata_csum",
                "`-O metadata_csum_seed`",
            ),
            ("-O orphan_file,^has_journal", "`-O orphan_file`"),
            ("-J device=/dev/sda", "`-J device=/dev/sda`"),
            ("file", "`file`"),
            ("-b 512", "`-b 512`"),
            ("-m fifty", "`-m fifty`"),
            ("-m .", "`-m .`"),
            ("-U nothing", "`-U nothing`"),
            ("-L 01234567890123456", "`-L 01234567890123456`"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}

//! Options of `pvcreate`, `vgcreate` and `lvcreate`: those that decide bytes of the
//! image are honoured, those that cannot matter to it are passed over, and all others
//! are errors, since a group that is not as it was asked for is no success.
//!
//! Numbers are written as LVM takes them: with a fraction, and a unit of `b`, `s`
//! (512 bytes), `k`, `m`, `g` or `t` in 1024 in either case.

use super::Id;
use super::format::{DATA_OFFSET, EXTENT_SIZE, MDA_OFFSET, MDA_SIZE, SECTOR};

/// An option that is not honoured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// One that is unknown, or that changes the result in a way that kiln cannot.
    #[error("option `{option}` of `{node}` is not supported: of {program} kiln knows {known}")]
    Unsupported {
        /// The program whose option it is.
        program: &'static str,
        /// The physical volume, group or logical volume.
        node: String,
        /// What was written.
        option: String,
        /// What is honoured.
        known: String,
    },
    /// A value that LVM or kiln does not take.
    #[error("option `{option}` of `{node}` is `{value}`, but must be {wanted}")]
    Value {
        /// The physical volume, group or logical volume.
        node: String,
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        wanted: &'static str,
    },
    /// An option without its value.
    #[error("option `{option}` of `{node}` has no value")]
    NoValue {
        /// The physical volume, group or logical volume.
        node: String,
        /// The option.
        option: &'static str,
    },
    /// What a key of the configuration says already.
    #[error("option `{option}` of `{node}` says again what the key `{key}` says: write it there")]
    Key {
        /// The logical volume.
        node: String,
        /// The option.
        option: &'static str,
        /// The key.
        key: &'static str,
    },
}

/// Layout of a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvOptions {
    /// First byte of the extents, where the metadata area ends.
    pub data_start: u64,
    /// Length in bytes, if it is less than what it is on.
    pub bytes: Option<u64>,
    /// Identity, if it is given.
    pub id: Option<Id>,
}

impl Default for PvOptions {
    fn default() -> Self {
        PvOptions {
            data_start: DATA_OFFSET,
            bytes: None,
            id: None,
        }
    }
}

/// How space for more volumes is to be found later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// `cling`
    Cling,
    /// `anywhere`
    Anywhere,
}

impl Allocation {
    /// Its name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Allocation::Cling => "cling",
            Allocation::Anywhere => "anywhere",
        }
    }
}

/// Properties of a volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VgOptions {
    /// Bytes of an extent.
    pub extent_size: u64,
    /// Most logical volumes; 0 is any number.
    pub max_lv: u32,
    /// Most physical volumes; 0 is any number.
    pub max_pv: u32,
    /// Tags in their order.
    pub tags: Vec<String>,
    /// Allocation that is not the usual one.
    pub allocation: Option<Allocation>,
}

impl Default for VgOptions {
    fn default() -> Self {
        VgOptions {
            extent_size: EXTENT_SIZE,
            max_lv: 0,
            max_pv: 0,
            tags: Vec::new(),
            allocation: None,
        }
    }
}

/// Properties of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LvOptions {
    /// Tags in their order.
    pub tags: Vec<String>,
    /// Over how many physical volumes its bytes go in turns, and for how many bytes.
    pub stripes: Option<Stripes>,
    /// It can only be read.
    pub read_only: bool,
    /// Sectors that are read ahead, where that is not left to the system.
    pub read_ahead: Option<u32>,
    /// Allocation that is not its group's.
    pub allocation: Option<Allocation>,
    /// Left alone unless activated with `--ignoreactivationskip`.
    pub activation_skip: bool,
    /// Left alone by what activates volumes at boot.
    pub no_autoactivation: bool,
    /// It is a thin pool, as `--type thin-pool` says.
    pub thin_pool: bool,
    /// Of a thin pool.
    pub pool: PoolOptions,
}

/// How bytes are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripes {
    /// Physical volumes, at least 2.
    pub count: u64,
    /// Bytes on each in turn.
    pub size: u64,
}

/// What a thin pool does with discarded chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discards {
    /// `passdown`
    #[default]
    PassDown,
    /// `nopassdown`
    NoPassDown,
    /// `ignore`
    Ignore,
}

impl Discards {
    /// Its name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Discards::PassDown => "passdown",
            Discards::NoPassDown => "nopassdown",
            Discards::Ignore => "ignore",
        }
    }
}

/// Properties of a thin pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOptions {
    /// Bytes of a chunk.
    pub chunk: Option<u64>,
    /// Bytes of its metadata.
    pub metadata: Option<u64>,
    /// Whether it wants spare metadata in the group.
    pub spare: bool,
    /// What happens to discarded chunks.
    pub discards: Discards,
    /// Whether new chunks are zeroed.
    pub zero: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            chunk: None,
            metadata: None,
            spare: true,
            discards: Discards::PassDown,
            zero: true,
        }
    }
}

/// An option as its program knows it.
struct Known {
    long: &'static str,
    short: Option<char>,
    value: bool,
    /// It decides bytes of the image.
    matters: bool,
}

const fn known(long: &'static str, short: Option<char>, value: bool, matters: bool) -> Known {
    Known {
        long,
        short,
        value,
        matters,
    }
}

/// Options of all programs that cannot matter to an image: they silence questions, or
/// are about the system that runs LVM.
const IDLE: [Known; 13] = [
    known("force", Some('f'), false, false),
    known("yes", Some('y'), false, false),
    known("quiet", Some('q'), false, false),
    known("verbose", Some('v'), false, false),
    known("debug", Some('d'), false, false),
    known("autobackup", Some('A'), true, false),
    known("devices", None, true, false),
    known("devicesfile", None, true, false),
    known("driverloaded", None, true, false),
    known("lockopt", None, true, false),
    known("nohints", None, false, false),
    known("nolocking", None, false, false),
    known("reportformat", None, true, false),
];

const PV: [Known; 11] = [
    known("uuid", Some('u'), true, true),
    known("metadatasize", None, true, true),
    known("dataalignment", None, true, true),
    known("dataalignmentoffset", None, true, true),
    known("setphysicalvolumesize", None, true, true),
    known("metadatacopies", None, true, true),
    known("pvmetadatacopies", None, true, true),
    known("labelsector", None, true, true),
    known("metadatatype", Some('M'), true, true),
    known("norestorefile", None, false, false),
    known("zero", Some('Z'), true, false),
];

const VG: [Known; 16] = [
    known("physicalextentsize", Some('s'), true, true),
    known("maxlogicalvolumes", Some('l'), true, true),
    known("maxphysicalvolumes", Some('p'), true, true),
    known("addtag", None, true, true),
    known("alloc", None, true, true),
    known("clustered", Some('c'), true, true),
    known("metadatatype", Some('M'), true, true),
    known("setautoactivation", None, true, true),
    // Only for physical volumes that are not yet such.
    known("metadatasize", None, true, false),
    known("dataalignment", None, true, false),
    known("dataalignmentoffset", None, true, false),
    known("metadatacopies", None, true, false),
    known("pvmetadatacopies", None, true, false),
    known("labelsector", None, true, false),
    known("metadataignore", None, true, false),
    known("zero", Some('Z'), true, false),
];

const LV: [Known; 27] = [
    known("addtag", None, true, true),
    known("stripes", Some('i'), true, true),
    known("stripesize", Some('I'), true, true),
    known("permission", Some('p'), true, true),
    known("readahead", Some('r'), true, true),
    known("alloc", None, true, true),
    known("contiguous", Some('C'), true, true),
    known("setactivationskip", Some('k'), true, true),
    known("setautoactivation", None, true, true),
    known("type", None, true, true),
    known("chunksize", Some('c'), true, true),
    known("poolmetadatasize", None, true, true),
    known("poolmetadataspare", None, true, true),
    known("discards", None, true, true),
    known("zero", Some('Z'), true, true),
    known("persistent", Some('M'), true, true),
    known("name", Some('n'), true, true),
    known("size", Some('L'), true, true),
    known("extents", Some('l'), true, true),
    known("virtualsize", Some('V'), true, true),
    known("thinpool", None, true, true),
    known("wipesignatures", Some('W'), true, false),
    known("activate", Some('a'), true, false),
    known("ignoreactivationskip", Some('K'), false, false),
    known("noudevsync", None, false, false),
    known("monitor", None, true, false),
    known("ignoremonitoring", None, false, false),
];

/// The options of one node.
struct Words<'a> {
    program: &'static str,
    node: &'a str,
    table: &'static [Known],
}

impl Words<'_> {
    fn unsupported(&self, option: &str) -> OptionError {
        let known = self.table.iter().filter(|known| known.matters);
        let known: Vec<String> = known.map(|known| format!("--{}", known.long)).collect();
        OptionError::Unsupported {
            program: self.program,
            node: self.node.to_owned(),
            option: option.to_owned(),
            known: known.join(", "),
        }
    }

    fn value(&self, option: &'static str, value: &str, wanted: &'static str) -> OptionError {
        OptionError::Value {
            node: self.node.to_owned(),
            option,
            value: value.to_owned(),
            wanted,
        }
    }

    fn all(&self) -> impl Iterator<Item = &'static Known> + use<> {
        self.table.iter().chain(&IDLE)
    }

    /// The options with their values, in order, without idle ones.
    fn read(&self, words: &[String]) -> Result<Vec<(&'static str, String)>, OptionError> {
        let mut found = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut take = |known: &'static Known, attached: Option<&str>| {
                let value = match (known.value, attached) {
                    (false, _) => String::new(),
                    (true, Some(value)) => value.trim().to_owned(),
                    (true, None) => {
                        let next = words.next().ok_or_else(|| OptionError::NoValue {
                            node: self.node.to_owned(),
                            option: known.long,
                        })?;
                        next.trim().to_owned()
                    }
                };
                if known.matters {
                    found.push((known.long, value));
                }
                Ok(())
            };
            if let Some(long) = word.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (long, None),
                };
                let known = self.all().find(|known| known.long == name);
                let known = known.filter(|known| known.value || value.is_none());
                take(known.ok_or_else(|| self.unsupported(word))?, value)?;
                continue;
            }
            let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                return Err(self.unsupported(word));
            };
            let mut rest = letters.chars();
            while let Some(letter) = rest.next() {
                let known = self.all().find(|known| known.short == Some(letter));
                let known = known.ok_or_else(|| self.unsupported(word))?;
                let attached = Some(rest.as_str()).filter(|text| known.value && !text.is_empty());
                take(known, attached)?;
                if known.value {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// A number of bytes; `unit` is that of a number alone.
    fn bytes(&self, option: &'static str, text: &str, unit: u64) -> Result<u64, OptionError> {
        bytes(text, unit).ok_or_else(|| self.value(option, text, "a size such as 64k, 8m or 1g"))
    }

    fn number(&self, option: &'static str, text: &str) -> Result<u32, OptionError> {
        let error = || self.value(option, text, "a number");
        text.parse().map_err(|_| error())
    }

    fn yes(&self, option: &'static str, text: &str) -> Result<bool, OptionError> {
        match text {
            "y" => Ok(true),
            "n" => Ok(false),
            _ => Err(self.value(option, text, "y or n")),
        }
    }

    fn tag(&self, text: &str) -> Result<String, OptionError> {
        let text = text.strip_prefix('@').unwrap_or(text);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte);
        let valid = !text.is_empty() && text.len() <= 1024 && !text.starts_with('-');
        if valid && text.bytes().all(allowed) {
            return Ok(text.to_owned());
        }
        let wanted = "letters, digits and _ + . - / = ! : & # (no - in front)";
        Err(self.value("addtag", text, wanted))
    }

    fn allocation(&self, text: &str, usual: &str) -> Result<Option<Allocation>, OptionError> {
        match text {
            "cling" => Ok(Some(Allocation::Cling)),
            "anywhere" => Ok(Some(Allocation::Anywhere)),
            text if text == usual || text == "normal" => Ok(None),
            _ => Err(self.value("alloc", text, "normal, cling or anywhere")),
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn bytes(text: &str, unit: u64) -> Option<u64> {
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "s" => SECTOR,
        "k" => KIB,
        "m" => MIB,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    // Nine digits are more than any size needs, and stay within 128 bits.
    let digits: String = fraction.chars().take(9).collect();
    let scale = 10u128.pow(u32::try_from(digits.len()).ok()?);
    let part: u128 = match digits.as_str() {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let part = u64::try_from(part * u128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// Reads options of `pvcreate`.
///
/// # Errors
/// See [`OptionError`].
pub fn physical(node: &str, words: &[String]) -> Result<PvOptions, OptionError> {
    let reader = Words {
        program: "pvcreate",
        node,
        table: &PV,
    };
    let (mut area, mut align, mut shift) = (MDA_SIZE, MIB, 0);
    let mut options = PvOptions::default();
    let sectors = "a whole number of sectors";
    for (option, value) in reader.read(words)? {
        match option {
            "uuid" => {
                let wanted = "an id of LVM such as abcdef-0123-4567-89ab-cdef-0123-456789";
                let id = Id::parse(&value);
                options.id = Some(id.ok_or_else(|| reader.value(option, &value, wanted))?);
            }
            "metadatasize" => {
                area = reader.bytes(option, &value, MIB)?;
                if !(8 * KIB..=1 << 30).contains(&area) {
                    return Err(reader.value(option, &value, "from 8k to 1g"));
                }
            }
            "dataalignment" => {
                align = reader.bytes(option, &value, KIB)?;
                if align == 0 || align > 1 << 30 || !align.is_multiple_of(SECTOR) {
                    return Err(reader.value(option, &value, sectors));
                }
            }
            "dataalignmentoffset" => {
                shift = reader.bytes(option, &value, KIB)?;
                if shift > 1 << 30 || !shift.is_multiple_of(SECTOR) {
                    return Err(reader.value(option, &value, sectors));
                }
            }
            "setphysicalvolumesize" => {
                let bytes = reader.bytes(option, &value, MIB)?;
                options.bytes = Some(bytes - bytes % SECTOR);
            }
            "metadatacopies" | "pvmetadatacopies" | "labelsector" if value != "1" => {
                return Err(reader.value(option, &value, "1"));
            }
            "metadatatype" if !matches!(value.as_str(), "2" | "lvm2") => {
                return Err(reader.value(option, &value, "lvm2"));
            }
            _ => {}
        }
    }
    options.data_start = (MDA_OFFSET + area).next_multiple_of(align) + shift;
    Ok(options)
}

/// Reads options of `vgcreate`.
///
/// # Errors
/// See [`OptionError`].
pub fn group(node: &str, words: &[String]) -> Result<VgOptions, OptionError> {
    let reader = Words {
        program: "vgcreate",
        node,
        table: &VG,
    };
    let mut options = VgOptions::default();
    for (option, value) in reader.read(words)? {
        match option {
            "physicalextentsize" => {
                let size = reader.bytes(option, &value, MIB)?;
                let possible = (size.is_power_of_two() && size >= 4 * KIB)
                    || (size > 0 && size.is_multiple_of(128 * KIB));
                if !possible || size > 16 << 30 {
                    let wanted = "a power of two from 4k, or a multiple of 128k, up to 16g";
                    return Err(reader.value(option, &value, wanted));
                }
                options.extent_size = size;
            }
            "maxlogicalvolumes" => options.max_lv = reader.number(option, &value)?,
            "maxphysicalvolumes" => options.max_pv = reader.number(option, &value)?,
            "addtag" => options.tags.push(reader.tag(&value)?),
            "alloc" => options.allocation = reader.allocation(&value, "normal")?,
            "clustered" if value != "n" => return Err(reader.value(option, &value, "n")),
            "setautoactivation" if value != "y" => {
                return Err(reader.value(option, &value, "y"));
            }
            "metadatatype" if !matches!(value.as_str(), "2" | "lvm2") => {
                return Err(reader.value(option, &value, "lvm2"));
            }
            _ => {}
        }
    }
    Ok(options)
}

/// Reads options of `lvcreate`.
///
/// # Errors
/// See [`OptionError`].
pub fn logical(node: &str, words: &[String]) -> Result<LvOptions, OptionError> {
    let reader = Words {
        program: "lvcreate",
        node,
        table: &LV,
    };
    let mut options = LvOptions::default();
    let (mut count, mut size) = (1, 64 * KIB);
    for (option, value) in reader.read(words)? {
        let wrong = |wanted| Err(reader.value(option, &value, wanted));
        match option {
            "addtag" => options.tags.push(reader.tag(&value)?),
            "stripes" => {
                count = reader.number(option, &value)?;
                if !(1..=128).contains(&count) {
                    return wrong("from 1 to 128");
                }
            }
            "stripesize" => {
                size = reader.bytes(option, &value, KIB)?;
                if !size.is_power_of_two() || !(4 * KIB..=1 << 30).contains(&size) {
                    return wrong("a power of two from 4k to 1g");
                }
            }
            "permission" => match value.as_str() {
                "r" => options.read_only = true,
                "rw" => options.read_only = false,
                _ => return wrong("r or rw"),
            },
            "readahead" => {
                options.read_ahead = match value.as_str() {
                    "auto" => None,
                    "none" => Some(0),
                    _ => Some(reader.number(option, &value)?),
                };
            }
            "alloc" => options.allocation = reader.allocation(&value, "inherit")?,
            "contiguous" | "persistent" if value != "n" => return wrong("n"),
            "setactivationskip" => options.activation_skip = reader.yes(option, &value)?,
            "setautoactivation" => options.no_autoactivation = !reader.yes(option, &value)?,
            "type" => match value.as_str() {
                "linear" | "striped" => options.thin_pool = false,
                "thin-pool" => options.thin_pool = true,
                "thin" => {
                    return Err(OptionError::Key {
                        node: node.to_owned(),
                        option: "--type thin",
                        key: "type",
                    });
                }
                _ => return wrong("linear, striped or thin-pool"),
            },
            "chunksize" => {
                let chunk = reader.bytes(option, &value, KIB)?;
                if !(64 * KIB..=1 << 30).contains(&chunk) || !chunk.is_multiple_of(64 * KIB) {
                    return wrong("a multiple of 64k up to 1g");
                }
                options.pool.chunk = Some(chunk);
            }
            "poolmetadatasize" => {
                let bytes = reader.bytes(option, &value, MIB)?;
                if !(2 * MIB..=15 << 30).contains(&bytes) {
                    return wrong("from 2m to 15g");
                }
                options.pool.metadata = Some(bytes);
            }
            "poolmetadataspare" => options.pool.spare = reader.yes(option, &value)?,
            "discards" => {
                options.pool.discards = match value.as_str() {
                    "passdown" => Discards::PassDown,
                    "nopassdown" => Discards::NoPassDown,
                    "ignore" => Discards::Ignore,
                    _ => return wrong("passdown, nopassdown or ignore"),
                };
            }
            "zero" => options.pool.zero = reader.yes(option, &value)?,
            "name" | "size" | "extents" | "virtualsize" | "thinpool" => {
                let (option, key) = match option {
                    "name" => ("--name", "name"),
                    "extents" => ("--extents", "extents"),
                    "thinpool" => ("--thinpool", "thin-pool"),
                    "size" => ("--size", "size"),
                    _ => ("--virtualsize", "size"),
                };
                return Err(OptionError::Key {
                    node: node.to_owned(),
                    option,
                    key,
                });
            }
            _ => {}
        }
    }
    let count = u64::from(count);
    options.stripes = (count > 1).then_some(Stripes { count, size });
    Ok(options)
}

//! What `getdents(2)` and `statfs(2)` tell 32-bit x86 programs, made from what they tell here.

use nix::errno::Errno;

/// Which structure a call about a filesystem fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filesystem {
    /// `struct statfs` of this machine.
    Native,
    /// `struct compat_statfs64` of `arch/x86`, whose size is an argument of its own.
    Wide,
    /// `struct compat_statfs`.
    Narrow,
}

/// Words of `struct statfs` that are numbers of blocks and files; before them are its type
/// and the size of a block, behind them its id, and three more.
const COUNTS: std::ops::Range<usize> = 2..7;
const ID: usize = 7;
const BEHIND: std::ops::Range<usize> = 8..11;
/// Words of 32 bits at the end that say nothing.
const SPARE: usize = 4 * 4;

impl Filesystem {
    /// How many arguments come between what is asked about and the buffer.
    pub(super) fn between(self) -> usize {
        usize::from(self == Filesystem::Wide)
    }

    /// The size that the structure has to be said to have.
    pub(super) fn size(self) -> Option<u64> {
        (self == Filesystem::Wide).then_some(84)
    }

    /// The structure, from that of this machine.
    pub(super) fn bytes(self, native: &[u8]) -> Result<Vec<u8>, Errno> {
        let (words, _) = native.as_chunks::<8>();
        if self == Filesystem::Native || words.len() < BEHIND.end {
            return Ok(native.to_vec());
        }
        let word = |at: usize| u64::from_ne_bytes(words[at]);
        let narrow = |at: usize| match word(at) {
            // Not known.
            u64::MAX => Ok(u32::MAX),
            number => u32::try_from(number).map_err(|_| Errno::EOVERFLOW),
        };
        let mut bytes = Vec::new();
        for (at, word) in words[..BEHIND.end].iter().enumerate() {
            if at == ID || COUNTS.contains(&at) && self == Filesystem::Wide {
                bytes.extend(word);
            } else {
                bytes.extend(narrow(at)?.to_ne_bytes());
            }
        }
        bytes.extend([0; SPARE]);
        Ok(bytes)
    }
}

/// Where names begin in `struct linux_dirent64`, and in `struct compat_linux_dirent`.
const NAME: usize = 19;
const SHORT_NAME: usize = 10;

/// Entries of a directory as the older call tells them, which take less room.
pub(super) fn entries(wide: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut rest = wide;
    while let Some((head, _)) = rest.split_at_checked(NAME) {
        let number = |at: usize| u64::from_ne_bytes(head[8 * at..].as_chunks().0[0]);
        let length = usize::from(u16::from_ne_bytes([head[16], head[17]]));
        let entry = rest.get(..length.max(NAME)).ok_or(Errno::EIO)?;
        let name = entry[NAME..].split(|&byte| byte == 0).next();
        let name = name.unwrap_or_default();
        // The type is the last byte.
        let short = (SHORT_NAME + name.len() + 2).next_multiple_of(4);
        let start = bytes.len();
        for at in 0..2 {
            let number = u32::try_from(number(at)).map_err(|_| Errno::EOVERFLOW)?;
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend((short as u16).to_ne_bytes());
        bytes.extend(name);
        bytes.resize(start + short, 0);
        if let Some(last) = bytes.last_mut() {
            *last = head[18];
        }
        rest = &rest[entry.len()..];
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_are_told_in_each_size() {
        let words = |words: [u64; 15]| words.map(u64::to_ne_bytes).concat();
        let small = [
            0x9fa0,
            4096,
            1,
            2,
            3,
            4,
            u64::MAX,
            7 << 32 | 6,
            255,
            4096,
            32,
            0,
            0,
            0,
            0,
        ];
        let mut large = small;
        large[2] = 1 << 40;
        let native = words(small);
        let of = |kind: Filesystem, from| kind.bytes(&words(from)).map(|bytes| bytes.len());
        assert_eq!(Filesystem::Native.bytes(&native), Ok(native.clone()));
        assert_eq!(of(Filesystem::Wide, small), Ok(84));
        assert_eq!(of(Filesystem::Wide, large), Ok(84));
        assert_eq!(of(Filesystem::Narrow, large), Err(Errno::EOVERFLOW));
        let narrow = Filesystem::Narrow.bytes(&native).expect("small");
        let (narrow, _) = narrow.as_chunks::<4>();
        let narrow: Vec<u32> = narrow
            .iter()
            .map(|word| u32::from_ne_bytes(*word))
            .collect();
        let expected = [
            0x9fa0,
            4096,
            1,
            2,
            3,
            4,
            u32::MAX,
            6,
            7,
            255,
            4096,
            32,
            0,
            0,
            0,
            0,
        ];
        assert_eq!(narrow, expected);
    }

    #[test]
    fn entries_are_told_in_less_room() {
        let entry = |inode: u64, kind: u8, name: &str| {
            let length = (NAME + name.len() + 1).next_multiple_of(8);
            let mut bytes = [inode, 5].map(u64::to_ne_bytes).concat();
            bytes.extend((length as u16).to_ne_bytes());
            bytes.push(kind);
            bytes.extend(name.as_bytes());
            bytes.resize(length, 0);
            bytes
        };
        let both = [entry(3, 4, "."), entry(9, 8, "status")].concat();
        let mut expected = [3_u32, 5].map(u32::to_ne_bytes).concat();
        expected.extend(16_u16.to_ne_bytes());
        expected.extend(b".\0\0\0\0\x04");
        expected.extend([9_u32, 5].map(u32::to_ne_bytes).concat());
        expected.extend(20_u16.to_ne_bytes());
        expected.extend(b"status\0\0\0\x08");
        assert_eq!(entries(&both), Ok(expected));
        assert_eq!(entries(&entry(1 << 40, 4, "x")), Err(Errno::EOVERFLOW));
        assert_eq!(entries(&[]), Ok(Vec::new()));
    }
}

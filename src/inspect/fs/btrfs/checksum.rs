//! Checksums of blocks: all that btrfs knows.

use sha2::Digest as _;

/// How blocks are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By its number in the superblock.
    pub(super) fn from_number(number: u16) -> Option<Checksum> {
        Some(match number {
            0 => Checksum::Crc32c,
            1 => Checksum::Xxhash64,
            2 => Checksum::Sha256,
            3 => Checksum::Blake2b,
            _ => return None,
        })
    }

    /// Whether a block begins with the checksum of the rest of it.
    pub(super) fn holds(self, block: &[u8]) -> bool {
        let Some((sum, rest)) = block.split_at_checked(32) else {
            return false;
        };
        match self {
            Checksum::Crc32c => sum.starts_with(&crc32c::crc32c(rest).to_le_bytes()),
            Checksum::Xxhash64 => sum.starts_with(&xxhash64(rest).to_le_bytes()),
            Checksum::Sha256 => sum == sha2::Sha256::digest(rest).as_slice(),
            Checksum::Blake2b => {
                use blake2::Digest as _;
                type Blake2b256 = blake2::Blake2b<blake2::digest::consts::U32>;
                sum == Blake2b256::digest(rest).as_slice()
            }
        }
    }
}

const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// XXH64 without a seed: <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>.
fn xxhash64(bytes: &[u8]) -> u64 {
    let [p1, p2, p3, p4, p5] = PRIMES;
    let word = |bytes: &[u8]| {
        let bytes = bytes.iter().rev();
        bytes.fold(0_u64, |word, &byte| word << 8 | u64::from(byte))
    };
    let round = |lane: u64, word: u64| {
        let lane = lane.wrapping_add(word.wrapping_mul(p2));
        lane.rotate_left(31).wrapping_mul(p1)
    };
    let stripes = bytes.chunks_exact(32);
    let mut rest = stripes.remainder();
    let mut sum = if bytes.len() < 32 {
        p5
    } else {
        let mut lanes = [p1.wrapping_add(p2), p2, 0, 0_u64.wrapping_sub(p1)];
        for stripe in stripes {
            for (lane, bytes) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, word(bytes));
            }
        }
        let [a, b, c, d] = lanes;
        let mut sum = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        for lane in lanes {
            sum = (sum ^ round(0, lane)).wrapping_mul(p1).wrapping_add(p4);
        }
        sum
    };
    sum = sum.wrapping_add(bytes.len() as u64);
    while let Some((eight, after)) = rest.split_at_checked(8) {
        sum ^= round(0, word(eight));
        sum = sum.rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
        rest = after;
    }
    if let Some((four, after)) = rest.split_at_checked(4) {
        sum ^= word(four).wrapping_mul(p1);
        sum = sum.rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
        rest = after;
    }
    for &byte in rest {
        sum ^= u64::from(byte).wrapping_mul(p5);
        sum = sum.rotate_left(11).wrapping_mul(p1);
    }
    sum = (sum ^ sum >> 33).wrapping_mul(p2);
    sum = (sum ^ sum >> 29).wrapping_mul(p3);
    sum ^ sum >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxhash64_gives_what_its_specification_says() {
        assert_eq!(xxhash64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxhash64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxhash64(b"abc"), 0x44BC_2CF5_AD77_0999);
        let long = b"The quick brown fox jumps over the lazy dog";
        assert_eq!(xxhash64(long), 0x0B24_2D36_1FDA_71BC);
    }
}

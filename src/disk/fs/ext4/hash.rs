//! The half-MD4 hash of hashed directories.
//!
//! Names are taken as *signed* characters whatever the build host's compiler
//! would do, and `s_flags` says so.

/// Hash and minor hash of a name, in the order in which a directory is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameHash {
    /// What the index stores; bit 0 is clear.
    pub major: u32,
    /// Orders names with the same major hash.
    pub minor: u32,
}

/// Not a hash: the kernel uses it for the end of a directory.
const END_OF_FILE: u32 = 0x7FFF_FFFF;

/// Hashes a name. An all-zero seed stands for MD4's own initial state.
pub fn half_md4(name: &[u8], seed: &[u8; 16]) -> NameHash {
    let mut state = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
    if seed.iter().any(|&byte| byte != 0) {
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(4)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u32::from(byte));
        }
    }
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(32..).unwrap_or_default();
    }
    let mut major = state[1] & !1;
    if major == END_OF_FILE << 1 {
        major = (END_OF_FILE - 1) << 1;
    }
    NameHash {
        major,
        minor: state[2],
    }
}

/// Up to 32 bytes of a name as words, padded with the length of what is left.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let pad = length | length << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        for &byte in bytes {
            let signed = i32::from(byte.cast_signed()).cast_unsigned();
            *word = signed.wrapping_add(*word << 8);
        }
    }
    words
}

/// One block of MD4 without its last words.
fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    /// Function, constant, order of the words, rotations.
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5A82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ED9_EBA1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, rotations) in ROUNDS {
        for (step, &word) in order.iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[word])
                .wrapping_add(constant);
            let rotated = sum.rotate_left(rotations[step % 4]);
            (a, b, c, d) = (d, rotated, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `debugfs -R 'dx_hash -h half_md4 -s SEED NAME'` (e2fsprogs 1.47.0,
    /// a filesystem with signed hashes) prints.
    #[test]
    fn hashes_equal_those_of_debugfs() {
        let seed: [u8; 16] = *b"\x89\x15\x12\xbe\xbe\x47\x41\x77\x80\x7a\x35\x2d\xda\x4d\x05\x1a";
        for (name, major, minor) in VECTORS {
            assert_eq!(
                half_md4(name.as_bytes(), &seed),
                NameHash {
                    major: *major,
                    minor: *minor
                },
                "{name}"
            );
        }
    }

    const VECTORS: &[(&str, u32, u32)] = &[
        ("a", 0xF957_CE50, 0xB52F_940C),
        ("hello", 0x905D_9540, 0xDBCC_D721),
        ("file-0001", 0xCE0C_408C, 0xC83E_8E63),
        (
            "a_name_that_is_longer_than_thirty_two_bytes.txt",
            0x782F_9AE6,
            0x5655_AD4E,
        ),
        ("exactly-thirty-two-bytes-long-xx", 0xF66F_BA58, 0x9040_4679),
    ];
}

//! Finds where bytes are repeated.

use super::SEGMENT;

/// Bits of the hash of a position's bytes. Its table, 64 KiB, should stay in the
/// nearest caches together with the cluster.
const HASH_BITS: u32 = 15;
/// Bytes that repeat at least: fewer are found, though not looked for.
const SHORTEST: usize = 4;
/// The longest match of the format.
const LONGEST: usize = 258;
/// How far back a match may reach.
const WINDOW: usize = 1 << 15;
/// A match of this length is taken without a look at the next byte.
const GOOD: usize = 64;
/// Positions at the start of a match that later matches can refer to. All of them
/// would make the stream a few per mille shorter and take longer by a tenth.
const REMEMBERED: usize = 4;
/// After 2^SPEED_UP literals in a row only every second position is looked at, after
/// twice as many every third: what had no match for long is rarely followed by one.
const SPEED_UP: u32 = 9;
/// Bytes at the end that no search starts in, so that reads of eight bytes stay within.
const TAIL: usize = 16;
/// Literals in a row up to which always as many are copied, which needs no loop.
const SHORT_RUN: usize = 16;

/// Some bytes as they are, and then a copy of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Bytes before the copy.
    pub literals: u32,
    /// Bytes of the copy: 3 to 258, or 0 where the data ends without one.
    pub length: u16,
    /// How far back they are: 1 to 32768; 0 where there is no copy.
    pub distance: u16,
}

impl Found {
    /// The literals of all sequences.
    pub fn literals(&self) -> &[u8] {
        &self.literals[..self.literal_count]
    }

    #[inline(always)]
    fn push(&mut self, data: &[u8], start: usize, end: usize, length: usize, distance: usize) {
        let count = end - start;
        let to = self.literal_count;
        if count <= SHORT_RUN && start + SHORT_RUN <= data.len() {
            self.literals[to..to + SHORT_RUN].copy_from_slice(&data[start..start + SHORT_RUN]);
        } else {
            self.literals[to..to + count].copy_from_slice(&data[start..end]);
        }
        self.literal_count += count;
        self.sequences.push(Sequence {
            literals: count as u32,
            length: length as u16,
            distance: distance as u16,
        });
    }
}

/// Where a repetition was found.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    from: usize,
    length: usize,
}

/// Finds repetitions in one segment after the other.
pub(super) struct Finder {
    /// The last position of each hash; 0 also stands for none, which needs no
    /// distinction as bytes are compared anyway.
    positions: Box<[u16; 1 << HASH_BITS]>,
    found: Found,
}

/// What the data consists of.
pub(super) struct Found {
    pub sequences: Vec<Sequence>,
    /// One after the other: counted and written without a look at where they were.
    literals: Box<[u8; SEGMENT + SHORT_RUN]>,
    literal_count: usize,
}

impl Default for Finder {
    fn default() -> Finder {
        Finder {
            positions: Box::new([0; 1 << HASH_BITS]),
            found: Found {
                sequences: Vec::new(),
                literals: Box::new([0; SEGMENT + SHORT_RUN]),
                literal_count: 0,
            },
        }
    }
}

impl Finder {
    /// Describes all of `data`, which has at most [`SEGMENT`] bytes.
    pub fn find(&mut self, data: &[u8]) -> &Found {
        self.positions.fill(0);
        self.found.sequences.clear();
        self.found.literal_count = 0;
        let limit = data.len().saturating_sub(TAIL);
        // The first byte can repeat nothing.
        let mut at = 1;
        let mut described = 0;
        while at < limit {
            let Some(mut found) = self.look(data, at) else {
                at += 1 + ((at - described) >> SPEED_UP);
                continue;
            };
            if found.length < GOOD
                && let Some(next) = self.look(data, at + 1)
                && next.length > found.length
            {
                found = next;
            }
            extend_backwards(data, described, &mut found);
            let (length, distance) = (found.length, found.at - found.from);
            self.found.push(data, described, found.at, length, distance);
            described = found.at + found.length;
            self.remember(data, at + 1, limit.min(at + 1 + REMEMBERED).min(described));
            let end = limit.min(described);
            self.remember(data, end.saturating_sub(2), end);
            at = described;
        }
        if described < data.len() || data.is_empty() {
            self.found.push(data, described, data.len(), 0, 0);
        }
        &self.found
    }

    /// Looks for an earlier occurrence of the bytes at `at` and remembers them.
    #[inline(always)]
    fn look(&mut self, data: &[u8], at: usize) -> Option<Match> {
        let bytes = eight(data, at);
        let position = &mut self.positions[hash(bytes)];
        let from = usize::from(*position);
        *position = at as u16;
        let found = from < at && at - from <= WINDOW && eight(data, from) as u32 == bytes as u32;
        found.then(|| Match {
            at,
            from,
            length: SHORTEST + common(data, from + SHORTEST, at + SHORTEST, LONGEST - SHORTEST),
        })
    }

    #[inline(always)]
    fn remember(&mut self, data: &[u8], start: usize, end: usize) {
        for at in start..end {
            self.positions[hash(eight(data, at))] = at as u16;
        }
    }
}

/// Takes bytes before the match into it that are the same, down to `start`.
#[inline(always)]
fn extend_backwards(data: &[u8], start: usize, found: &mut Match) {
    while found.at > start
        && found.from > 0
        && found.length < LONGEST
        && data[found.at - 1] == data[found.from - 1]
    {
        found.at -= 1;
        found.from -= 1;
        found.length += 1;
    }
}

/// How many bytes from `one` and from the later `two` are the same, at most `most`.
#[inline(always)]
fn common(data: &[u8], mut one: usize, two: usize, most: usize) -> usize {
    let end = data.len().min(two + most);
    let mut at = two;
    while at + 8 <= end {
        let different = eight(data, one) ^ eight(data, at);
        if different != 0 {
            return at - two + (different.trailing_zeros() / 8) as usize;
        }
        one += 8;
        at += 8;
    }
    while at < end && data[one] == data[at] {
        one += 1;
        at += 1;
    }
    at - two
}

#[inline(always)]
fn eight(data: &[u8], at: usize) -> u64 {
    let bytes = data[at..at + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

/// A number for the first five of eight bytes.
#[inline(always)]
fn hash(bytes: u64) -> usize {
    // 2^64 divided by the golden ratio, which spreads well (Knuth, volume 3, 6.4).
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    ((bytes << 24).wrapping_mul(FACTOR) >> (u64::BITS - HASH_BITS)) as usize
}

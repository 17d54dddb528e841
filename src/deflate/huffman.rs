//! Huffman codes of limited length (RFC 1951, 3.2.2).

/// The longest code of the format.
const LONGEST: usize = 15;
/// Symbols of the largest alphabet.
const SYMBOLS: usize = 288;
/// Counts are below this power of two.
const COUNT_BITS: u32 = 20;

/// A code as it is written, its first bit lowest; without bits where the symbol does
/// not occur.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub bits: u16,
    pub count: u8,
}

/// Gives each symbol that occurs (and at least two in all, as some readers refuse
/// codes with one) a length of at most `limit` bits.
pub(super) fn lengths(counts: &[u32], limit: usize, lengths: &mut [u8]) {
    debug_assert!(counts.len() == lengths.len() && counts.len() <= SYMBOLS && limit <= LONGEST);
    lengths.fill(0);
    // Sorted by count, then symbol, in one number.
    let mut sorted = [0_u32; SYMBOLS];
    let mut used = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        debug_assert!(count < 1 << COUNT_BITS);
        if count > 0 {
            sorted[used] = count << (u32::BITS - COUNT_BITS) | symbol as u32;
            used += 1;
        }
    }
    if used < 2 {
        let only = (sorted[0] & SYMBOL) as usize;
        lengths[only] = 1;
        lengths[usize::from(only == 0)] = 1;
        return;
    }
    let sorted = &mut sorted[..used];
    sorted.sort_unstable();
    let mut of_length = depths(sorted);
    shorten(&mut of_length, limit);
    let mut rarest = sorted.iter();
    for length in (1..=limit).rev() {
        for &symbol in rarest.by_ref().take(of_length[length]) {
            lengths[(symbol & SYMBOL) as usize] = length as u8;
        }
    }
}

/// The part of a sorted number that is the symbol.
const SYMBOL: u32 = (1 << (u32::BITS - COUNT_BITS)) - 1;

/// Depths that are told apart; with counts below 2^20 none is larger (a tree of
/// depth d needs Fibonacci's number d + 1 of symbols).
const DEPTHS: usize = 32;

/// How many leaves of the Huffman tree have each depth.
///
/// Both leaves and inner nodes come in order of weight, so the two lightest are always
/// at the front of one of two queues (van Leeuwen, 1976).
fn depths(sorted: &[u32]) -> [usize; DEPTHS] {
    let leaves = sorted.len();
    let mut parent_of_leaf = [0_u16; SYMBOLS];
    let mut parent_of_node = [0_u16; SYMBOLS];
    let mut weights = [0_u32; SYMBOLS];
    let (mut leaf, mut node) = (0, 0);
    for made in 0..leaves - 1 {
        for _ in 0..2 {
            let next = sorted
                .get(leaf)
                .map(|leaf| leaf >> (u32::BITS - COUNT_BITS));
            match next {
                Some(weight) if node == made || weight <= weights[node] => {
                    weights[made] += weight;
                    parent_of_leaf[leaf] = made as u16;
                    leaf += 1;
                }
                _ => {
                    weights[made] += weights[node];
                    parent_of_node[node] = made as u16;
                    node += 1;
                }
            }
        }
    }
    let mut depth = [0_u8; SYMBOLS];
    for node in (0..leaves - 2).rev() {
        depth[node] = depth[usize::from(parent_of_node[node])] + 1;
    }
    let mut of_depth = [0; DEPTHS];
    for &parent in &parent_of_leaf[..leaves] {
        of_depth[usize::from(depth[usize::from(parent)] + 1)] += 1;
    }
    of_depth
}

/// Makes a code of it that has no length over `limit`.
fn shorten(of_length: &mut [usize; DEPTHS], limit: usize) {
    let too_long: usize = of_length[limit + 1..].iter().sum();
    if too_long == 0 {
        return;
    }
    of_length[limit + 1..].fill(0);
    of_length[limit] += too_long;
    // What the codes take of the space, in units of the longest one.
    let mut taken: usize = (1..=limit).map(|at| of_length[at] << (limit - at)).sum();
    while taken > 1 << limit {
        // Two leaves at the limit give way: one takes the place beside a shorter one,
        // which moves a level down.
        let shorter = (1..limit).rev().find(|&at| of_length[at] > 0);
        let shorter = shorter.expect("not all are of the longest length");
        of_length[shorter] -= 1;
        of_length[shorter + 1] += 2;
        of_length[limit] -= 1;
        taken -= 1;
    }
}

/// The codes that follow from lengths.
pub(super) fn codes(lengths: &[u8], codes: &mut [Code]) {
    let mut of_length = [0_u16; LONGEST + 1];
    for &length in lengths {
        of_length[usize::from(length)] += 1;
    }
    of_length[0] = 0;
    let mut next = [0_u16; LONGEST + 1];
    for length in 1..=LONGEST {
        next[length] = (next[length - 1] + of_length[length - 1]) << 1;
    }
    for (&length, code) in lengths.iter().zip(codes) {
        *code = Code::default();
        if length > 0 {
            let next = &mut next[usize::from(length)];
            code.bits = next.reverse_bits() >> (u16::BITS - u32::from(length));
            code.count = length;
            *next += 1;
        }
    }
}

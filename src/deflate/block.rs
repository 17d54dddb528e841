//! Blocks with their own Huffman codes (RFC 1951, 3.2.5 to 3.2.7).

use std::ops::Range;

use super::bits::Bits;
use super::huffman::{self, Code};
use super::matches::{Found, Sequence};

/// Symbols for literals, the end of the block, and lengths of matches.
const LITERALS: usize = 286;
/// Symbols for distances of matches.
const DISTANCES: usize = 30;
/// Symbols for lengths of codes.
const PRECODES: usize = 19;
const END_OF_BLOCK: usize = 256;
const FIRST_LENGTH: usize = 257;
/// Bits of the longest code that this writes: four literals fit between two flushes.
const LONGEST_CODE: usize = 14;
const _: () = assert!(4 * LONGEST_CODE as u32 <= Bits::ROOM);

/// Least lengths of the symbols from 257 on, and how many bits follow them.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// Index into [`LENGTHS`] of a length less 3.
static LENGTH_SLOTS: [u8; 256] = {
    let mut slots = [0; 256];
    let mut length = 3;
    let mut slot = 0;
    while length <= 258 {
        if slot + 1 < LENGTHS.len() && LENGTHS[slot + 1].0 as usize == length {
            slot += 1;
        }
        slots[length - 3] = slot as u8;
        length += 1;
    }
    slots
};

/// The order in which lengths of the codes for lengths are written.
const PRECODE_ORDER: [usize; PRECODES] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Bytes after which a new block may begin.
const PIECE: usize = 1 << 13;
/// Bits that a further block's codes cost, about.
const HEADER: f32 = 750.0;

/// A stretch of sequences with common codes.
#[derive(Clone)]
pub(super) struct Block {
    sequences: Range<usize>,
    first_literal: usize,
    counts: Counts,
    /// Bits without the header, about.
    cost: f32,
}

/// How often each symbol occurs.
#[derive(Clone)]
struct Counts {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
}

impl Counts {
    fn new() -> Counts {
        let mut literals = [0; LITERALS];
        literals[END_OF_BLOCK] = 1;
        Counts {
            literals,
            distances: [0; DISTANCES],
        }
    }

    fn count_literals(&mut self, literals: &[u8]) {
        // By turns in two tables: to count the same value twice in a row waits for
        // the first to be stored.
        let mut every_second = [0; 256];
        let mut pairs = literals.chunks_exact(2);
        for pair in &mut pairs {
            self.literals[usize::from(pair[0])] += 1;
            every_second[usize::from(pair[1])] += 1;
        }
        for &literal in pairs.remainder() {
            self.literals[usize::from(literal)] += 1;
        }
        for (count, more) in self.literals.iter_mut().zip(every_second) {
            *count += more;
        }
    }

    #[inline(always)]
    fn count_match(&mut self, sequence: Sequence) {
        if sequence.length > 0 {
            self.literals[FIRST_LENGTH + length_slot(sequence.length)] += 1;
            self.distances[distance_slot(sequence.distance)] += 1;
        }
    }

    fn with(&self, other: &Counts) -> Counts {
        let mut both = self.clone();
        let pairs = both.literals.iter_mut().zip(&other.literals);
        for (one, two) in pairs.chain(both.distances.iter_mut().zip(&other.distances)) {
            *one += two;
        }
        both.literals[END_OF_BLOCK] = 1;
        both
    }

    /// Bits that ideal codes would need.
    fn cost(&self) -> f32 {
        entropy(&self.literals) + entropy(&self.distances)
    }
}

fn entropy(counts: &[u32]) -> f32 {
    let total: u32 = counts.iter().sum();
    let apart: f32 = counts.iter().map(|&count| times_its_logarithm(count)).sum();
    times_its_logarithm(total) - apart
}

/// n log2 n, to about a hundredth of n. No logarithm of a library: those differ in
/// their last bits, and with them images would.
#[inline(always)]
fn times_its_logarithm(number: u32) -> f32 {
    const MANTISSA: u32 = (1 << 23) - 1;
    let value = number as f32;
    let bits = value.to_bits();
    let exponent = (bits >> 23) as f32 - 127.0;
    // In 1..2, where a parabola is close.
    let fraction = f32::from_bits(bits & MANTISSA | 1.0_f32.to_bits());
    value * (exponent + (-0.344_845 * fraction + 2.024_658) * fraction - 1.674_877)
}

/// Cuts what was found in so many bytes into blocks, where one with codes of its own
/// is worth them.
pub(super) fn split(bytes: usize, found: &Found, blocks: &mut Vec<Block>) {
    blocks.clear();
    let mut piece = Block::starting_at(0, 0);
    let (mut at, mut literal) = (0, 0);
    let mut piece_start = 0;
    for (number, &sequence) in found.sequences.iter().enumerate() {
        piece.counts.count_match(sequence);
        literal += sequence.literals as usize;
        at += sequence.literals as usize + usize::from(sequence.length);
        // A short rest stays with the piece before it.
        let is_long = at - piece_start >= PIECE && bytes - at >= PIECE / 2;
        if is_long || number + 1 == found.sequences.len() {
            piece.sequences.end = number + 1;
            let literals = &found.literals()[piece.first_literal..literal];
            piece.counts.count_literals(literals);
            piece.cost = piece.counts.cost();
            let next = Block::starting_at(number + 1, literal);
            append(blocks, std::mem::replace(&mut piece, next));
            piece_start = at;
        }
    }
}

/// Makes a piece part of the last block, or a block of its own.
fn append(blocks: &mut Vec<Block>, piece: Block) {
    if let Some(last) = blocks.last_mut() {
        let counts = last.counts.with(&piece.counts);
        let cost = counts.cost();
        if cost <= last.cost + piece.cost + HEADER {
            last.sequences.end = piece.sequences.end;
            last.counts = counts;
            last.cost = cost;
            return;
        }
    }
    blocks.push(piece);
}

#[inline(always)]
fn length_slot(length: u16) -> usize {
    usize::from(LENGTH_SLOTS[usize::from(length - 3) & 255]) & 31
}

/// The symbol of a distance: two for each power of two.
#[inline(always)]
fn distance_slot(distance: u16) -> usize {
    let less = u32::from(distance - 1);
    if less < 2 {
        return less as usize;
    }
    let power = less.ilog2();
    (2 * power + (less >> (power - 1) & 1)) as usize
}

/// A match's length as it is written: its code and the bits that follow it.
#[derive(Clone, Copy, Default)]
struct Length {
    bits: u32,
    count: u32,
}

impl Block {
    fn starting_at(sequence: usize, literal: usize) -> Block {
        Block {
            sequences: sequence..sequence,
            first_literal: literal,
            counts: Counts::new(),
            cost: 0.0,
        }
    }

    /// Writes the block; `None` where it does not fit.
    pub fn write(&self, found: &Found, last: bool, bits: &mut Bits) -> Option<()> {
        let mut lengths = [0; LITERALS + DISTANCES];
        let (of_literals, of_distances) = lengths.split_at_mut(LITERALS);
        huffman::lengths(&self.counts.literals, LONGEST_CODE, of_literals);
        huffman::lengths(&self.counts.distances, LONGEST_CODE, of_distances);
        let mut literals = [Code::default(); LITERALS];
        let mut distances = [Code::default(); DISTANCES];
        huffman::codes(of_literals, &mut literals);
        huffman::codes(of_distances, &mut distances);
        bits.add(u32::from(last), 1);
        bits.add(2, 2); // with codes of its own
        write_lengths(&mut lengths, bits);

        let mut of_lengths = [Length::default(); 256];
        for (less, length) in of_lengths.iter_mut().enumerate() {
            let slot = usize::from(LENGTH_SLOTS[less]);
            let code = literals[FIRST_LENGTH + slot];
            let (base, extra) = LENGTHS[slot];
            let more = less as u32 + 3 - u32::from(base);
            length.bits = u32::from(code.bits) | more << code.count;
            length.count = u32::from(code.count + extra);
        }
        let mut left = &found.literals()[self.first_literal..];
        for sequence in &found.sequences[self.sequences.clone()] {
            let run;
            (run, left) = left.split_at(sequence.literals as usize);
            let mut fours = run.chunks_exact(4);
            for four in &mut fours {
                for &literal in four {
                    let code = literals[usize::from(literal)];
                    bits.add(code.bits.into(), code.count.into());
                }
                bits.flush();
            }
            for &literal in fours.remainder() {
                let code = literals[usize::from(literal)];
                bits.add(code.bits.into(), code.count.into());
            }
            bits.flush();
            if sequence.length > 0 {
                // At most 14 + 5 and 14 + 13 bits.
                let length = of_lengths[usize::from(sequence.length - 3) & 255];
                bits.add(length.bits, length.count);
                let slot = distance_slot(sequence.distance);
                let code = distances[slot];
                bits.add(code.bits.into(), code.count.into());
                if slot >= 4 {
                    let extra = slot as u32 / 2 - 1;
                    let more = u32::from(sequence.distance - 1) & ((1 << extra) - 1);
                    bits.add(more, extra);
                }
                bits.flush();
            }
            if bits.is_full() {
                return None;
            }
        }
        let end = literals[END_OF_BLOCK];
        bits.add(end.bits.into(), end.count.into());
        bits.flush();
        (!bits.is_full()).then_some(())
    }
}

/// Writes the lengths of both codes, those of literals first (RFC 1951, 3.2.7), for
/// which it moves them together.
fn write_lengths(lengths: &mut [u8; LITERALS + DISTANCES], bits: &mut Bits) {
    let up_to_last = |lengths: &[u8], least: usize| {
        let last = lengths.iter().rposition(|&length| length > 0);
        last.map_or(least, |last| least.max(last + 1))
    };
    let literals = up_to_last(&lengths[..LITERALS], FIRST_LENGTH);
    let distances = up_to_last(&lengths[LITERALS..], 1);
    lengths.copy_within(LITERALS..LITERALS + distances, literals);

    // Runs of one length: the symbol, and the bits that follow it.
    let mut runs = [(0, 0); LITERALS + DISTANCES];
    let mut count = 0;
    let mut counts = [0; PRECODES];
    let mut add = |symbol: u8, more: usize| {
        runs[count] = (symbol, more as u32);
        count += 1;
        counts[usize::from(symbol)] += 1;
    };
    for run in lengths[..literals + distances].chunk_by(|one, two| one == two) {
        let length = run[0];
        let mut left = run.len();
        if length == 0 {
            while left >= 11 {
                let many = left.min(138);
                add(18, many - 11);
                left -= many;
            }
            if left >= 3 {
                add(17, left - 3);
                left = 0;
            }
        } else {
            add(length, 0);
            left -= 1;
            while left >= 3 {
                let many = left.min(6);
                add(16, many - 3);
                left -= many;
            }
        }
        for _ in 0..left {
            add(length, 0);
        }
    }

    let mut precode_lengths = [0; PRECODES];
    huffman::lengths(&counts, 7, &mut precode_lengths);
    let mut precodes = [Code::default(); PRECODES];
    huffman::codes(&precode_lengths, &mut precodes);
    let in_order = PRECODE_ORDER.map(|symbol| precode_lengths[symbol]);
    let written = up_to_last(&in_order, 4);
    bits.add((literals - FIRST_LENGTH) as u32, 5);
    bits.add((distances - 1) as u32, 5);
    bits.add((written - 4) as u32, 4);
    bits.flush();
    for &length in &in_order[..written] {
        bits.add(length.into(), 3);
        bits.flush();
    }
    for &(symbol, more) in &runs[..count] {
        let code = precodes[usize::from(symbol)];
        bits.add(code.bits.into(), code.count.into());
        let extra = match symbol {
            16 => 2,
            17 => 3,
            18 => 7,
            _ => 0,
        };
        bits.add(more, extra);
        bits.flush();
    }
}

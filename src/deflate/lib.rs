//! A compressor to raw deflate streams ([RFC 1951]) for the clusters of disk images.
//!
//! Clusters are small, are compressed each on its own, and an image has tens of
//! thousands of them, so this one trades generality for speed: matches come from a
//! table with one position for each hash of five bytes, with a look at the next
//! byte before a short match is taken (`matches`); what was found is cut into blocks
//! where the statistics change, as one cluster often holds several small files, and
//! each has its own Huffman codes (`block`, `huffman`). On the clusters of a Debian of
//! 1.5 GB this is a fifth faster than libdeflate's levels 1 and 2, mixed so that they
//! give the same size.
//!
//! The same bytes always give the same stream: nothing is kept between calls.
//!
//! [RFC 1951]: https://www.rfc-editor.org/rfc/rfc1951

mod bits;
mod block;
mod huffman;
mod matches;

use bits::Bits;
use block::Block;
use matches::Finder;

/// Bytes that are searched for matches together; matches do not reach beyond them.
/// Positions in them fit a `u16`.
const SEGMENT: usize = 1 << 16;

/// Compresses one buffer at a time.
#[derive(Default)]
pub struct Deflater {
    finder: Finder,
    blocks: Vec<Block>,
}

impl Deflater {
    /// Makes one with its tables, 190 KiB.
    pub fn new() -> Deflater {
        Deflater::default()
    }

    /// Writes `data` as one deflate stream to the start of `space` and returns its
    /// length; `None` where it does not fit.
    pub fn compress(&mut self, data: &[u8], space: &mut [u8]) -> Option<usize> {
        let mut bits = Bits::new(space);
        let mut segments = data.chunks(SEGMENT).peekable();
        if segments.peek().is_none() {
            self.segment(&[], true, &mut bits)?;
        }
        while let Some(segment) = segments.next() {
            self.segment(segment, segments.peek().is_none(), &mut bits)?;
        }
        bits.finish()
    }

    fn segment(&mut self, data: &[u8], last: bool, bits: &mut Bits) -> Option<()> {
        let found = self.finder.find(data);
        block::split(data.len(), found, &mut self.blocks);
        let blocks = self.blocks.len();
        for (number, block) in self.blocks.iter().enumerate() {
            block.write(found, last && number + 1 == blocks, bits)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;

//! LZO1X, as <https://docs.kernel.org/staging/lzo.html> describes it (version 0),
//! and the frame that btrfs puts around it.

/// Decompresses a stream into the start of `out`; `None` for damage.
pub(super) fn decompress(stream: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut stream = Stream {
        rest: stream,
        out,
        at: 0,
    };
    // How many literals the last instruction copied, 4 standing for more.
    let mut state = 0;
    if let Some(&first @ 18..) = stream.rest.first() {
        stream.byte()?;
        let count = usize::from(first) - 17;
        stream.literals(count)?;
        state = count.min(4);
    }
    loop {
        let code = usize::from(stream.byte()?);
        let (distance, length, literals) = match code {
            0..=15 if state == 0 => {
                let count = stream.length(code, 15)?.checked_add(3)?;
                stream.literals(count)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let high = usize::from(stream.byte()?) << 2;
                let (length, nearest) = if state == 4 { (3, 2049) } else { (2, 1) };
                (high + (code >> 2) + nearest, length, code)
            }
            16..=31 => {
                let length = stream.length(code & 7, 7)?.checked_add(2)?;
                let word = stream.word()?;
                let distance = 16384 + ((code & 8) << 11) + (word >> 2);
                if distance == 16384 {
                    return Some(stream.at);
                }
                (distance, length, word)
            }
            32..=63 => {
                let length = stream.length(code & 31, 31)?.checked_add(2)?;
                let word = stream.word()?;
                ((word >> 2) + 1, length, word)
            }
            _ => {
                let high = usize::from(stream.byte()?) << 3;
                (high + (code >> 2 & 7) + 1, (code >> 5) + 1, code)
            }
        };
        stream.at = super::repeat(stream.out, stream.at, distance, length)?;
        state = literals & 3;
        stream.literals(state)?;
    }
}

/// Decompresses what btrfs stores: the length of all, then for each sector its
/// length as stored and its stream. A length does not cross the end of a sector.
pub(super) fn decompress_sectors(stored: &[u8], out: &mut [u8], sector: usize) -> Option<usize> {
    let word = |at: usize| {
        let bytes = stored.get(at..at.checked_add(4)?)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let end = word(0)?;
    if end > stored.len() || sector == 0 {
        return None;
    }
    let (mut from, mut at) = (4_usize, 0_usize);
    while from < end {
        let left = sector - from % sector;
        if left < 4 {
            from += left;
            if from >= end {
                break;
            }
        }
        let length = word(from)?;
        from += 4;
        let stop = from.checked_add(length).filter(|&stop| stop <= end)?;
        // All sectors but the last are full.
        let room = out.len().min(at.checked_add(sector)?);
        at += decompress(stored.get(from..stop)?, out.get_mut(at..room)?)?;
        from = stop;
    }
    Some(at)
}

struct Stream<'a> {
    rest: &'a [u8],
    out: &'a mut [u8],
    at: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn word(&mut self) -> Option<usize> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(usize::from(u16::from_le_bytes(*bytes)))
    }

    /// A length whose first part is in the instruction; zero says that more follows.
    fn length(&mut self, start: usize, most: usize) -> Option<usize> {
        if start != 0 {
            return Some(start);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255)?,
                last => return length.checked_add(usize::from(last)),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        let end = self.at.checked_add(count)?;
        self.out.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.rest = rest;
        self.at = end;
        Some(())
    }
}

//! Where the bytes of a volume are on its disk. Pure data.

use std::sync::Arc;

/// Where a volume's bytes are: pieces of a disk, and zeros between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    length: u64,
    /// Sorted, not overlapping, not empty, within the length.
    pieces: Vec<Piece>,
}

/// A part of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// First byte in the volume.
    pub start: u64,
    /// In bytes.
    pub length: u64,
    /// Where it is.
    pub place: Place,
}

/// Where a part of a volume is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// From this byte on.
    Linear(u64),
    /// In turn `size` bytes of each of several ranges, which begin at these bytes.
    Striped {
        /// First bytes of the ranges; more than one.
        at: Arc<[u64]>,
        /// Not zero.
        size: u64,
    },
}

/// A mapping has too many pieces, or they are not in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPiece;

/// How many pieces all mappings of a disk may have together: it bounds the memory
/// that an image can make kiln use.
#[derive(Debug)]
pub(super) struct Budget(pub usize);

impl Mapping {
    /// All zeros.
    pub(super) fn empty(length: u64) -> Mapping {
        Mapping {
            length,
            pieces: Vec::new(),
        }
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends a piece behind all others; what leaves the length is left off.
    pub(super) fn push(&mut self, piece: Piece, budget: &mut Budget) -> Result<(), BadPiece> {
        let last = self.pieces.last_mut();
        let next = last.as_ref().map_or(0, |last| last.start + last.length);
        if piece.start < next {
            return Err(BadPiece);
        }
        let length = piece.length.min(self.length.saturating_sub(piece.start));
        if length == 0 {
            return Ok(());
        }
        if let (Some(last), Place::Linear(at)) = (last, &piece.place)
            && let Place::Linear(before) = last.place
            && piece.start == next
            && before.checked_add(last.length) == Some(*at)
        {
            last.length += length;
            return Ok(());
        }
        budget.0 = budget.0.checked_sub(1).ok_or(BadPiece)?;
        self.pieces.push(Piece { length, ..piece });
        Ok(())
    }

    /// Appends at `start` the bytes of another volume of the same disk: `length` from
    /// `from` on.
    pub(super) fn push_part(
        &mut self,
        start: u64,
        of: &Mapping,
        from: u64,
        length: u64,
        budget: &mut Budget,
    ) -> Result<(), BadPiece> {
        let end = from.checked_add(length).ok_or(BadPiece)?;
        if end > of.length || start.checked_add(length).is_none() {
            return Err(BadPiece);
        }
        let mut at = from;
        while at < end {
            let (place, here) = of.at(at);
            let here = here.min(end - at);
            if let Some(place) = place {
                let piece = Piece {
                    start: start + (at - from),
                    length: here,
                    place: Place::Linear(place),
                };
                self.push(piece, budget)?;
            }
            at += here;
        }
        Ok(())
    }

    /// Where a byte is on the disk (nowhere: a zero), and for how many bytes the same
    /// goes on.
    pub(super) fn at(&self, offset: u64) -> (Option<u64>, u64) {
        let first = self
            .pieces
            .partition_point(|piece| piece.start + piece.length <= offset);
        let Some(piece) = self.pieces.get(first) else {
            return (None, self.length.saturating_sub(offset).max(1));
        };
        if piece.start > offset {
            return (None, piece.start - offset);
        }
        let within = offset - piece.start;
        let left = piece.length - within;
        match &piece.place {
            Place::Linear(at) => (Some(at.saturating_add(within)), left),
            Place::Striped { at, size } => {
                let (stripe, skip) = (within / size, within % size);
                let count = at.len() as u64;
                let range = usize::try_from(stripe % count)
                    .ok()
                    .and_then(|index| at.get(index));
                let place = range.map(|range| {
                    range
                        .saturating_add((stripe / count).saturating_mul(*size))
                        .saturating_add(skip)
                });
                (place, left.min(size - skip))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(start: u64, length: u64, at: u64) -> Piece {
        Piece {
            start,
            length,
            place: Place::Linear(at),
        }
    }

    #[test]
    fn pieces_are_joined_holes_are_zeros_and_stripes_take_turns() {
        let mut budget = Budget(10);
        let mut mapping = Mapping::empty(1000);
        mapping.push(linear(0, 10, 500), &mut budget).unwrap();
        mapping.push(linear(10, 10, 510), &mut budget).unwrap();
        mapping.push(linear(30, 10, 0), &mut budget).unwrap();
        let striped = Piece {
            start: 100,
            length: 40,
            place: Place::Striped {
                at: [1000, 2000].into(),
                size: 10,
            },
        };
        mapping.push(striped, &mut budget).unwrap();
        assert_eq!(budget.0, 7, "two are one");
        for (offset, expected) in [
            (0, (Some(500), 20)),
            (19, (Some(519), 1)),
            (20, (None, 10)),
            (35, (Some(5), 5)),
            (100, (Some(1000), 10)),
            (113, (Some(2003), 7)),
            (120, (Some(1010), 10)),
            (139, (Some(2019), 1)),
            (140, (None, 860)),
        ] {
            assert_eq!(mapping.at(offset), expected, "{offset}");
        }
        assert_eq!(
            mapping.push(linear(139, 10, 0), &mut budget),
            Err(BadPiece),
            "out of order"
        );
        let mut part = Mapping::empty(60);
        part.push_part(0, &mapping, 90, 50, &mut budget).unwrap();
        assert_eq!(part.at(0), (None, 10));
        assert_eq!(part.at(25), (Some(2005), 5));
        assert_eq!(
            part.push_part(50, &mapping, 990, 20, &mut budget),
            Err(BadPiece),
            "behind the end"
        );
        assert_eq!(
            part.push(linear(55, 1, 0), &mut Budget(0)),
            Err(BadPiece),
            "too many"
        );
    }
}

//! Volumes in several places.

use crate::disk::{Extent, Source, Volume};

/// Cuts a volume into parts of these lengths in bytes, in the order of its bytes.
pub fn scatter(volume: Volume, lengths: &[u64]) -> Vec<Volume> {
    let mut parts: Vec<Volume> = Vec::with_capacity(lengths.len());
    let mut ends = Vec::with_capacity(lengths.len());
    let mut end = 0;
    for &length in lengths {
        parts.push(Volume {
            length: length.min(volume.length.saturating_sub(end)),
            extents: Vec::new(),
        });
        end += length;
        ends.push(end);
    }
    for extent in volume.extents {
        let (mut from, to) = (extent.offset, extent.offset + extent.length);
        let first = ends.partition_point(|&end| end <= from);
        for at in first..parts.len() {
            if from >= to {
                break;
            }
            let upto = to.min(ends[at]);
            parts[at].extents.push(Extent {
                offset: from - (ends[at] - lengths[at]),
                length: upto - from,
                source: skip(&extent.source, from - extent.offset),
            });
            from = upto;
        }
    }
    parts
}

/// Deals a volume out to `count` parts, `size` bytes to each in turn.
pub fn stripe(volume: &Volume, count: usize, size: u64) -> Vec<Volume> {
    let turns = count as u64;
    let mut parts = vec![Volume::default(); count];
    for (at, part) in parts.iter_mut().enumerate() {
        let whole = volume.length / (size * turns) * size;
        let rest = volume.length % (size * turns);
        part.length = whole + rest.saturating_sub(at as u64 * size).min(size);
    }
    for extent in &volume.extents {
        let (mut from, to) = (extent.offset, extent.offset + extent.length);
        while from < to {
            let turn = from / size;
            let upto = to.min((turn + 1) * size);
            // Less than `count`, which is one.
            let part = usize::try_from(turn % turns).unwrap_or(0);
            parts[part].extents.push(Extent {
                offset: turn / turns * size + from % size,
                length: upto - from,
                source: skip(&extent.source, from - extent.offset),
            });
            from = upto;
        }
    }
    parts
}

/// The same source, `by` bytes further.
fn skip(source: &Source, by: u64) -> Source {
    match source {
        Source::Bytes { bytes, start } => {
            let start = usize::try_from(by).map_or(bytes.len(), |by| start.saturating_add(by));
            Source::Bytes {
                bytes: bytes.clone(),
                start,
            }
        }
        Source::File {
            tree,
            inode,
            offset,
        } => Source::File {
            tree: tree.clone(),
            inode: *inode,
            offset: offset + by,
        },
        Source::Rendered { by: render, offset } => Source::Rendered {
            by: render.clone(),
            offset: offset + by,
        },
    }
}

//! Sorted items become the blocks of a tree.

use zerocopy::IntoBytes as _;

use super::format::{GENERATION, HEADER_FLAGS, Header, Item, Key, NODE_SIZE, Pointer, seal};

/// Room of a block behind its header.
const ROOM: usize = NODE_SIZE - size_of::<Header>();
/// Most bytes of an item's data.
pub(super) const MAX_ITEM: usize = ROOM - size_of::<Item>();

/// An item with its data.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Key,
    pub data: Vec<u8>,
}

/// The shape of a tree: how many blocks each level has, leaves first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Ends of the items of each leaf.
    leaves: Vec<usize>,
    /// Blocks of each level.
    pub levels: Vec<usize>,
}

/// Pointers of an inner block.
const FANOUT: usize = ROOM / size_of::<Pointer>();

impl Shape {
    /// The shape of a tree with these items (data lengths, in order).
    pub(super) fn of(lengths: impl IntoIterator<Item = usize>) -> Shape {
        let mut leaves = Vec::new();
        let (mut used, mut count) = (0, 0);
        for length in lengths {
            let size = length + size_of::<Item>();
            if used + size > ROOM && used > 0 {
                leaves.push(count);
                used = 0;
            }
            used += size;
            count += 1;
        }
        leaves.push(count);
        let mut levels = vec![leaves.len()];
        let mut below = leaves.len();
        while below > 1 {
            below = below.div_ceil(FANOUT);
            levels.push(below);
        }
        Shape { leaves, levels }
    }

    /// Blocks in all.
    pub(super) fn blocks(&self) -> usize {
        self.levels.iter().sum()
    }

    /// Level of the top block; leaves are level 0.
    pub(super) fn level(&self) -> u8 {
        u8::try_from(self.levels.len() - 1).unwrap_or(u8::MAX)
    }

    /// Levels of the blocks in the order in which they are laid out.
    pub(super) fn block_levels(&self) -> impl Iterator<Item = u8> + '_ {
        let levels = self.levels.iter().zip(0u8..);
        levels.flat_map(|(&count, level)| std::iter::repeat_n(level, count))
    }
}

/// What the head of every block says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub fsid: [u8; 16],
    pub chunk_tree_uuid: [u8; 16],
}

/// Renders a tree into blocks whose addresses are given: leaves first, the top last.
pub(super) fn render(
    identity: Identity,
    owner: u64,
    shape: &Shape,
    entries: &[Entry],
    addresses: &[u64],
) -> Vec<Vec<u8>> {
    let header = |address: u64, count: usize, level: u8| Header {
        csum: [0; 32],
        fsid: identity.fsid,
        bytenr: address.into(),
        flags: HEADER_FLAGS.into(),
        chunk_tree_uuid: identity.chunk_tree_uuid,
        generation: GENERATION.into(),
        owner: owner.into(),
        nritems: u32::try_from(count).unwrap_or(u32::MAX).into(),
        level,
    };
    let mut blocks = Vec::with_capacity(shape.blocks());
    let mut addresses = addresses.iter().copied();
    // First keys and addresses of the level below.
    let mut below: Vec<(Key, u64)> = Vec::new();
    let mut start = 0;
    for &end in &shape.leaves {
        let address = addresses.next().unwrap_or(0);
        let mut block = vec![0; NODE_SIZE];
        let items = &entries[start..end];
        let head = size_of::<Header>();
        block[..head].copy_from_slice(header(address, items.len(), 0).as_bytes());
        let mut data_end = ROOM;
        for (at, entry) in items.iter().enumerate() {
            data_end -= entry.data.len();
            let item = Item {
                key: entry.key.into(),
                offset: u32::try_from(data_end).unwrap_or(0).into(),
                size: u32::try_from(entry.data.len()).unwrap_or(0).into(),
            };
            let place = head + at * size_of::<Item>();
            block[place..place + size_of::<Item>()].copy_from_slice(item.as_bytes());
            block[head + data_end..head + data_end + entry.data.len()].copy_from_slice(&entry.data);
        }
        let first = Key {
            object: 0,
            kind: 0,
            offset: 0,
        };
        below.push((items.first().map_or(first, |entry| entry.key), address));
        seal(&mut block);
        blocks.push(block);
        start = end;
    }
    for level in 1..=shape.level() {
        let mut next = Vec::with_capacity(below.len().div_ceil(FANOUT));
        for children in below.chunks(FANOUT) {
            let address = addresses.next().unwrap_or(0);
            let mut block = vec![0; NODE_SIZE];
            let head = size_of::<Header>();
            block[..head].copy_from_slice(header(address, children.len(), level).as_bytes());
            for (at, &(key, child)) in children.iter().enumerate() {
                let pointer = Pointer {
                    key: key.into(),
                    blockptr: child.into(),
                    generation: GENERATION.into(),
                };
                let place = head + at * size_of::<Pointer>();
                block[place..place + size_of::<Pointer>()].copy_from_slice(pointer.as_bytes());
            }
            next.push((children[0].0, address));
            seal(&mut block);
            blocks.push(block);
        }
        below = next;
    }
    blocks
}

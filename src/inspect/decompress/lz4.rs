//! Blocks of LZ4: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>.

/// Decompresses a block into the start of `out`; `None` for damage.
pub(super) fn decompress(block: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut rest = block;
    let mut at = 0_usize;
    loop {
        let (&token, after) = rest.split_first()?;
        rest = after;
        let literals = length(usize::from(token >> 4), &mut rest)?;
        let (bytes, after) = rest.split_at_checked(literals)?;
        out.get_mut(at..at.checked_add(literals)?)?
            .copy_from_slice(bytes);
        at += literals;
        rest = after;
        // The last sequence has no match.
        if rest.is_empty() {
            return Some(at);
        }
        let (distance, after) = rest.split_first_chunk()?;
        rest = after;
        let count = length(usize::from(token & 15), &mut rest)?.checked_add(4)?;
        at = super::repeat(out, at, usize::from(u16::from_le_bytes(*distance)), count)?;
    }
}

/// A length of which the token has the first part.
fn length(start: usize, rest: &mut &[u8]) -> Option<usize> {
    let mut length = start;
    if start == 15 {
        loop {
            let (&byte, after) = rest.split_first()?;
            *rest = after;
            length = length.checked_add(usize::from(byte))?;
            if byte != 255 {
                break;
            }
        }
    }
    Some(length)
}

//! Bits of a stream, the lowest of each byte first (RFC 1951, 3.1.1).

/// Writes to a buffer of fixed size.
pub(super) struct Bits<'space> {
    space: &'space mut [u8],
    /// Bytes that are written.
    at: usize,
    /// Bits that are not written yet, the first of them lowest.
    waiting: u64,
    /// How many those are.
    count: u32,
    full: bool,
}

impl<'space> Bits<'space> {
    /// Bits that can be added after a [`flush`](Bits::flush) before the next.
    pub const ROOM: u32 = u64::BITS - 7;

    pub fn new(space: &'space mut [u8]) -> Self {
        Bits {
            space,
            at: 0,
            waiting: 0,
            count: 0,
            full: false,
        }
    }

    /// Adds the low `count` bits of `bits`, whose others are zero.
    #[inline(always)]
    pub fn add(&mut self, bits: u32, count: u32) {
        debug_assert!(self.count + count <= u64::BITS && u64::from(bits) >> count == 0);
        self.waiting |= u64::from(bits) << self.count;
        self.count += count;
    }

    /// Writes all whole bytes that wait.
    #[inline(always)]
    pub fn flush(&mut self) {
        // Eight bytes at once, of which the next flush overwrites those not whole.
        if let Some(space) = self.space.get_mut(self.at..self.at + 8) {
            space.copy_from_slice(&self.waiting.to_le_bytes());
            self.at += (self.count / 8) as usize;
            self.waiting >>= self.count & !7;
            self.count &= 7;
        } else {
            self.flush_near_the_end();
        }
    }

    #[cold]
    fn flush_near_the_end(&mut self) {
        while self.count >= 8 {
            match self.space.get_mut(self.at) {
                Some(byte) => *byte = self.waiting.to_le_bytes()[0],
                None => self.full = true,
            }
            self.at += usize::from(!self.full);
            self.waiting >>= 8;
            self.count -= 8;
        }
    }

    /// Whether something did not fit.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Pads to a whole byte and returns how many there are; `None` if the space was
    /// too small.
    pub fn finish(mut self) -> Option<usize> {
        self.count = self.count.next_multiple_of(8);
        self.flush();
        (!self.full).then_some(self.at)
    }
}

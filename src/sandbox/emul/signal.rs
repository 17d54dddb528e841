//! `sigaction(2)` and `fork(2)`: which programs have handlers after which calls are not
//! restarted, and children whose ends call them. The kernel does what is asked; the
//! [`guard`](crate::sandbox::guard) has to know. Programs that are being ended start no others
//! ([`family`](crate::sandbox::family)).

use super::{Answer, Call, Errno, Outcome, memory};
use crate::sandbox::family;

/// How a call tells of a handler.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// `struct sigaction` of the kernel, 64-bit: handler, flags.
    Wide,
    /// The same, 32-bit.
    Narrow,
    /// `struct old_sigaction`: handler, mask, flags.
    Old,
    /// The handler is an argument.
    Plain,
}

/// No handler, and none that is ever called (`SIG_DFL`, `SIG_IGN`).
const NO_HANDLER: [u64; 2] = [0, 1];

impl Call<'_> {
    pub(super) fn set_handler(&mut self, action: Action) -> Outcome {
        // What cannot be read, the kernel refuses.
        if self.interrupts(action).unwrap_or(false) {
            let signal = self.int(0);
            self.listener.handles(self.pid, signal, &self.worker.view);
        }
        Ok(Answer::Continue)
    }

    /// `fork`, `vfork`, and `clone` with its flags in the first argument.
    pub(super) fn fork(&mut self) -> Outcome {
        self.require_starts()?;
        self.listener.forks(self.pid, &self.worker.view);
        Ok(Answer::Continue)
    }

    pub(super) fn clone_process(&mut self) -> Outcome {
        self.require_starts()?;
        let flags = self.word(0);
        // A thread is none of the children that signals tell of.
        if flags & libc::CLONE_THREAD as u32 == 0 {
            self.fork()?;
        }
        if flags & libc::CLONE_NEWNS as u32 != 0 {
            return self.change_root();
        }
        Ok(Answer::Continue)
    }

    /// Fails while programs are being ended, for those of them.
    pub(super) fn require_starts(&mut self) -> Result<(), Errno> {
        if family::starts_nothing(|| self.is_confined())? {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// Whether calls that the handler interrupts are not made again.
    fn interrupts(&self, action: Action) -> Result<bool, Errno> {
        let address = self.arguments[1];
        // Size of the structure's words, and which of them has the flags.
        let (size, place) = match action {
            Action::Wide => (8, 1),
            Action::Narrow => (4, 1),
            Action::Old => (4, 2),
            Action::Plain => return Ok(!NO_HANDLER.contains(&address)),
        };
        let bytes = memory::read(self.pid, address, size * (place + 1))?;
        let word = |place: usize| {
            let mut whole = [0; 8];
            whole[..size].copy_from_slice(&bytes[size * place..][..size]);
            u64::from_le_bytes(whole)
        };
        let (handler, flags) = (word(0), word(place));
        Ok(!NO_HANDLER.contains(&handler) && flags & libc::SA_RESTART as u64 == 0)
    }
}

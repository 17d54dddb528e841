//! `capget(2)` and `capset(2)` of processes that believe to be no root any more: they
//! really keep all capabilities, and would find that odd. Some refuse to run then.

use super::{Answer, Call, Errno, Outcome, tracee};

/// Versions of the structures and how many sets of 32 capabilities each has
/// (`linux/capability.h`).
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];
/// Version, then a process.
const HEADER: usize = 8;
/// Effective, permitted, inheritable: a word each.
const SET: usize = 12;

/// What a process believes to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

impl Sets {
    fn bytes(self, words: usize) -> Vec<u8> {
        let word = |set: u64, word: usize| (set >> (32 * word)) as u32;
        (0..words)
            .flat_map(|at| {
                [self.effective, self.permitted, self.inheritable].map(|set| word(set, at))
            })
            .flat_map(u32::to_ne_bytes)
            .collect()
    }

    fn of_bytes(bytes: &[u8]) -> Sets {
        let (words, _) = bytes.as_chunks::<4>();
        let set = |which: usize| {
            let words = words.iter().skip(which).step_by(3).zip([0, 32]);
            words.fold(0, |set, (word, shift)| {
                set | u64::from(u32::from_ne_bytes(*word)) << shift
            })
        };
        Sets {
            effective: set(0),
            permitted: set(1),
            inheritable: set(2),
        }
    }
}

impl Call<'_> {
    pub(super) fn show_capabilities(&mut self) -> Outcome {
        let Some((believed, words)) = self.believed()? else {
            return Ok(Answer::Continue);
        };
        self.write(self.arguments[1], &believed.bytes(words))?;
        Ok(Answer::Value(0))
    }

    pub(super) fn set_capabilities(&mut self) -> Outcome {
        let Some((believed, words)) = self.believed()? else {
            return Ok(Answer::Continue);
        };
        let bytes = tracee::read(self.pid, self.arguments[1], words * SET)?;
        let wanted = Sets::of_bytes(&bytes);
        if wanted.permitted & !believed.permitted != 0 || wanted.effective & !wanted.permitted != 0
        {
            return Err(Errno::EPERM);
        }
        // What it gives up for good it does not have; what it takes again the kernel gives.
        Ok(if wanted.effective == 0 {
            Answer::Value(0)
        } else {
            Answer::Continue
        })
    }

    /// What the task believes to have where that is not what it has, and in how many
    /// words it asks. `None` also where it asks for another's, or wrongly.
    fn believed(&mut self) -> Result<Option<(Sets, usize)>, Errno> {
        let credentials = self.credentials()?;
        if credentials.privileged() || self.arguments[1] == 0 {
            return Ok(None);
        }
        let header = tracee::read(self.pid, self.arguments[0], HEADER)?;
        let (words, _) = header.as_chunks::<4>();
        let [version, process] = [words[0], words[1]].map(u32::from_ne_bytes);
        let known = VERSIONS.into_iter().find(|(known, _)| *known == version);
        let Some((_, words)) = known.filter(|_| process == 0 || process == self.pid) else {
            return Ok(None);
        };
        let real = self.worker.view.status(self.pid)?;
        let believed = Sets {
            effective: 0,
            permitted: if credentials.may_return() {
                real.permitted
            } else {
                0
            },
            inheritable: real.inheritable,
        };
        Ok(Some((believed, words)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_words_that_take_turns() {
        let sets = Sets {
            effective: 1 << 40 | 2,
            permitted: 1 << 33 | 4,
            inheritable: 8,
        };
        let bytes = sets.bytes(2);
        assert_eq!(bytes.len(), 2 * SET);
        let words: Vec<u8> = bytes.iter().copied().step_by(4).collect();
        assert_eq!(words, [2, 4, 8, 0, 2, 0]);
        assert_eq!(bytes[13], 1);
        assert_eq!(Sets::of_bytes(&bytes), sets);
        let lower = Sets::of_bytes(&sets.bytes(1));
        assert_eq!((lower.effective, lower.permitted), (2, 4));
    }
}

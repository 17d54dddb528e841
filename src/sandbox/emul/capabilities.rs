//! `capget(2)` and `capset(2)` of processes that believe to be no root any more: they
//! really keep all capabilities, and would find that odd. Some refuse to run then.
//!
//! What root gives up without giving up its ids, the kernel takes for real.

use super::cred::{CAP_SETPCAP, Credentials};
use super::status::Status;
use super::{Answer, Call, Errno, Outcome, memory};

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
    /// What a task believes to have, of what it has.
    fn believed(credentials: &Credentials, real: &Status) -> Sets {
        Sets {
            effective: real.permitted & !credentials.idle,
            permitted: real.permitted & !credentials.gone,
            inheritable: real.inheritable,
        }
    }

    /// Whether a task that has these may set those.
    fn may_become(self, wanted: Sets) -> bool {
        let hands_on = if self.effective & 1 << CAP_SETPCAP == 0 {
            self.inheritable | self.permitted
        } else {
            u64::MAX
        };
        wanted.permitted & !self.permitted == 0
            && wanted.effective & !wanted.permitted == 0
            && wanted.inheritable & !hands_on == 0
    }

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
        let credentials = self.credentials()?;
        if credentials.idle == 0 {
            return Ok(Answer::Continue);
        }
        let Some((words, real)) = self.asks_for_itself()? else {
            return Ok(Answer::Continue);
        };
        let believed = Sets::believed(&credentials, &real);
        self.write(self.arguments[1], &believed.bytes(words))?;
        Ok(Answer::Value(0))
    }

    pub(super) fn set_capabilities(&mut self) -> Outcome {
        let Some((words, real)) = self.asks_for_itself()? else {
            return Ok(Answer::Continue);
        };
        let bytes = memory::read(self.pid, self.arguments[1], words * SET)?;
        let wanted = Sets::of_bytes(&bytes);
        let credentials = self.credentials()?;
        if !Sets::believed(&credentials, &real).may_become(wanted) {
            return Err(Errno::EPERM);
        }
        let had_none = credentials.idle & real.permitted == real.permitted;
        self.alter(|credentials| {
            credentials.gone |= real.permitted & !wanted.permitted;
            credentials.idle = credentials.gone | real.permitted & !wanted.effective;
            Ok(())
        })?;
        // What it gives up for good it does not have; what it takes again the kernel gives.
        Ok(if had_none && wanted.effective == 0 {
            Answer::Value(0)
        } else {
            Answer::Continue
        })
    }

    /// In how many words the task asks, and what it really has. `None` where it asks for
    /// another's, or wrongly.
    fn asks_for_itself(&mut self) -> Result<Option<(usize, Status)>, Errno> {
        if self.arguments[1] == 0 {
            return Ok(None);
        }
        let header = memory::read(self.pid, self.arguments[0], HEADER)?;
        let (words, _) = header.as_chunks::<4>();
        let [version, process] = [words[0], words[1]].map(u32::from_ne_bytes);
        let known = VERSIONS.into_iter().find(|(known, _)| *known == version);
        let Some((_, words)) = known else {
            return Ok(None);
        };
        let real = self.worker.view.status(self.pid)?;
        let itself = process == 0 || real.numbers.contains(&process);
        Ok(itself.then_some((words, real)))
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

    #[test]
    fn nothing_is_gained_by_setting_it() {
        let sets = |effective, permitted, inheritable| Sets {
            effective,
            permitted,
            inheritable,
        };
        let had = sets(1, 3, 4);
        for (wanted, expected) in [
            (sets(1, 3, 4), true),
            (sets(2, 2, 0), true),
            (sets(0, 0, 3), true),
            (sets(0, 8, 0), false),
            (sets(2, 1, 0), false),
            (sets(0, 0, 8), false),
        ] {
            assert_eq!(had.may_become(wanted), expected, "{wanted:?}");
        }
        let may_hand_on = sets(1 << CAP_SETPCAP, 1 << CAP_SETPCAP, 0);
        assert!(may_hand_on.may_become(sets(0, 0, 8)));
    }
}

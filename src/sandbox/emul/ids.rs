//! Calls about a process's own ids, and the limit that carries them.

use super::cred::{CAP_SETPCAP, Change, Credentials, Ids, Kind};
use super::layout::short_id;
use super::{Answer, Call, Errno, Outcome, memory};

/// Most supplementary groups (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65536;

impl Call<'_> {
    pub(super) fn set_one(&mut self, kind: Kind) -> Outcome {
        self.change(kind, Change::One(self.id(0)))
    }

    pub(super) fn set_two(&mut self, kind: Kind) -> Outcome {
        self.change(kind, Change::Two(self.id(0), self.id(1)))
    }

    pub(super) fn set_three(&mut self, kind: Kind) -> Outcome {
        self.change(kind, Change::Three([0, 1, 2].map(|n| self.id(n))))
    }

    pub(super) fn set_filesystem(&mut self, kind: Kind) -> Outcome {
        let answer = self.change(kind, Change::Filesystem(self.id(0)))?;
        Ok(match answer {
            Answer::Value(former) if self.short_ids => Answer::Value(self.shown(former as u32)),
            answer => answer,
        })
    }

    /// An id as a result.
    fn shown(&self, id: u32) -> i64 {
        if self.short_ids {
            short_id(id).into()
        } else {
            id.into()
        }
    }

    /// An id as it lies in memory.
    fn id_bytes(&self, id: u32) -> Vec<u8> {
        if self.short_ids {
            short_id(id).to_ne_bytes().to_vec()
        } else {
            id.to_ne_bytes().to_vec()
        }
    }

    pub(super) fn show(&self, what: impl Fn(&Credentials) -> u32) -> Outcome {
        let id = what(&*self.credentials()?);
        Ok(if id == 0 {
            Answer::Continue
        } else {
            Answer::Value(self.shown(id))
        })
    }

    pub(super) fn show_three(&self, kind: Kind) -> Outcome {
        let credentials = self.credentials()?;
        let ids = match kind {
            Kind::User => credentials.user,
            Kind::Group => credentials.group,
        };
        // In a user namespace of its own it is told what that knows.
        if ids == Ids::default() {
            return Ok(Answer::Continue);
        }
        for (address, id) in self
            .arguments
            .into_iter()
            .zip([ids.real, ids.effective, ids.saved])
        {
            self.write(address, &self.id_bytes(id))?;
        }
        Ok(Answer::Value(0))
    }

    pub(super) fn groups(&self) -> Outcome {
        let credentials = self.credentials()?;
        let groups = &credentials.groups;
        let room = usize::try_from(self.int(0)).map_err(|_| Errno::EINVAL)?;
        if room != 0 {
            if room < groups.len() {
                return Err(Errno::EINVAL);
            }
            let bytes: Vec<u8> = groups
                .iter()
                .flat_map(|&group| self.id_bytes(group))
                .collect();
            self.write(self.arguments[1], &bytes)?;
        }
        Ok(Answer::Value(groups.len() as i64))
    }

    pub(super) fn set_groups(&self) -> Outcome {
        let count = usize::try_from(self.int(0)).map_err(|_| Errno::EINVAL)?;
        if count > MOST_GROUPS {
            return Err(Errno::EINVAL);
        }
        let size = if self.short_ids { 2 } else { 4 };
        let bytes = memory::read(self.pid, self.arguments[1], count * size)?;
        let groups = bytes
            .chunks_exact(size)
            .map(|id| match *id {
                [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
                [a, b] => u16::from_ne_bytes([a, b]).into(),
                _ => 0,
            })
            .collect();
        self.alter(|credentials| credentials.set_groups(groups))?;
        Ok(Answer::Value(0))
    }

    fn change(&self, kind: Kind, change: Change) -> Outcome {
        self.alter(|credentials| credentials.change(kind, change))
            .map(Answer::Value)
    }

    /// Gives the task other credentials, if they are any.
    pub(super) fn alter<T>(
        &self,
        how: impl FnOnce(&mut Credentials) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let old = self.credentials()?;
        let mut new = Credentials::clone(&old);
        let result = how(&mut new)?;
        if new != *old {
            self.give(new)?;
        }
        Ok(result)
    }

    /// `prctl(2)` with one of the options of the table.
    pub(super) fn process_option(&self) -> Outcome {
        match self.int(0) {
            libc::PR_SET_DUMPABLE => return Ok(self.set_dumpable()),
            libc::PR_CAPBSET_DROP if !self.credentials()?.has(CAP_SETPCAP) => {
                return Err(Errno::EPERM);
            }
            libc::PR_SET_KEEPCAPS => {
                let keep = match self.arguments[1] {
                    0 => false,
                    1 => true,
                    _ => return Err(Errno::EINVAL),
                };
                self.alter(|credentials| credentials.keep_capabilities(keep))?;
            }
            libc::PR_SET_SECUREBITS => {
                let bits = u32::try_from(self.arguments[1]).map_err(|_| Errno::EPERM)?;
                self.alter(|credentials| credentials.set_secure(bits))?;
            }
            _ => {}
        }
        // The kernel's own flags follow, so that they can be read back.
        Ok(Answer::Continue)
    }

    /// A program that hides its memory (`ssh-agent` does) would get no answers of a
    /// supervisor that may not look into such programs. So it only believes that it does.
    fn set_dumpable(&self) -> Answer {
        if self.arguments[1] == 0 && !self.worker.shared.powers.traces {
            Answer::Value(0)
        } else {
            Answer::Continue
        }
    }

    /// Shows the limit as if it were not used, at the address in an argument, in
    /// numbers of this size. That of others says nothing to anybody.
    pub(super) fn limit(&self, argument: usize, size: usize) -> Outcome {
        // All bits set is "unlimited" in either size.
        self.unlimited(argument, &vec![0xff; size])
    }

    /// The same for the oldest call of i386, whose largest number is positive.
    pub(super) fn oldest_limit(&self) -> Outcome {
        self.unlimited(1, &i32::MAX.to_ne_bytes())
    }

    fn unlimited(&self, argument: usize, number: &[u8]) -> Outcome {
        let address = self.arguments[argument];
        if address != 0 {
            self.write(address, &number.repeat(2))?;
        }
        Ok(Answer::Value(0))
    }
}

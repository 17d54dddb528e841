//! Calls about a process's own ids, and the limit that carries them.

use super::cred::{Change, Credentials, Kind};
use super::{Answer, Call, Errno, Outcome, bytes_of, tracee};

/// Most supplementary groups (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65536;

impl Call<'_> {
    /// Answers any call of this kind; another kind is left to the kernel.
    pub(super) fn ids(&mut self) -> Outcome {
        use Kind::{Group, User};
        let (first, second, third) = (self.word(0), self.word(1), self.word(2));
        match self.number {
            libc::SYS_getuid => self.show(|of| of.user.real),
            libc::SYS_geteuid => self.show(|of| of.user.effective),
            libc::SYS_getgid => self.show(|of| of.group.real),
            libc::SYS_getegid => self.show(|of| of.group.effective),
            libc::SYS_getresuid => self.show_three(User),
            libc::SYS_getresgid => self.show_three(Group),
            libc::SYS_getgroups => self.groups(),
            libc::SYS_setgroups => self.set_groups(),
            libc::SYS_setuid => self.change(User, Change::One(first)),
            libc::SYS_setgid => self.change(Group, Change::One(first)),
            libc::SYS_setreuid => self.change(User, Change::Two(first, second)),
            libc::SYS_setregid => self.change(Group, Change::Two(first, second)),
            libc::SYS_setresuid => self.change(User, Change::Three([first, second, third])),
            libc::SYS_setresgid => self.change(Group, Change::Three([first, second, third])),
            libc::SYS_setfsuid => self.change(User, Change::Filesystem(first)),
            libc::SYS_setfsgid => self.change(Group, Change::Filesystem(first)),
            libc::SYS_prctl => self.keep_capabilities(),
            libc::SYS_getrlimit => self.limit(1),
            libc::SYS_setrlimit => Ok(Answer::Value(0)),
            // Only the caller's own; that of others says nothing to anybody.
            libc::SYS_prlimit64 => self.limit(3),
            _ => Ok(Answer::Continue),
        }
    }

    fn show(&self, what: impl Fn(&Credentials) -> u32) -> Outcome {
        let id = what(&*self.credentials()?);
        Ok(if id == 0 {
            Answer::Continue
        } else {
            Answer::Value(i64::from(id))
        })
    }

    fn show_three(&self, kind: Kind) -> Outcome {
        let credentials = self.credentials()?;
        let ids = match kind {
            Kind::User => credentials.user,
            Kind::Group => credentials.group,
        };
        for (address, id) in self
            .arguments
            .into_iter()
            .zip([ids.real, ids.effective, ids.saved])
        {
            self.write(address, &id.to_ne_bytes())?;
        }
        Ok(Answer::Value(0))
    }

    fn groups(&self) -> Outcome {
        let credentials = self.credentials()?;
        let groups = &credentials.groups;
        let room = usize::try_from(self.int(0)).map_err(|_| Errno::EINVAL)?;
        if room != 0 {
            if room < groups.len() {
                return Err(Errno::EINVAL);
            }
            let bytes: Vec<u8> = groups
                .iter()
                .flat_map(|group| group.to_ne_bytes())
                .collect();
            self.write(self.arguments[1], &bytes)?;
        }
        Ok(Answer::Value(groups.len() as i64))
    }

    fn set_groups(&self) -> Outcome {
        let count = usize::try_from(self.int(0)).map_err(|_| Errno::EINVAL)?;
        if count > MOST_GROUPS {
            return Err(Errno::EINVAL);
        }
        let bytes = tracee::read(self.pid, self.arguments[1], count * size_of::<u32>())?;
        let groups = bytes
            .chunks_exact(4)
            .map(|id| u32::from_ne_bytes([id[0], id[1], id[2], id[3]]))
            .collect();
        let mut credentials = Credentials::clone(&*self.credentials()?);
        credentials.set_groups(groups)?;
        self.give(credentials)?;
        Ok(Answer::Value(0))
    }

    fn change(&self, kind: Kind, change: Change) -> Outcome {
        let old = self.credentials()?;
        let mut new = Credentials::clone(&old);
        let result = new.change(kind, change)?;
        if new != *old {
            self.give(new)?;
        }
        Ok(Answer::Value(result))
    }

    fn keep_capabilities(&self) -> Outcome {
        let mut credentials = Credentials::clone(&*self.credentials()?);
        credentials.keep = match self.arguments[1] {
            0 => false,
            1 => true,
            _ => return Err(Errno::EINVAL),
        };
        self.give(credentials)?;
        // The kernel's own flag follows, so that it can be read back.
        Ok(Answer::Continue)
    }

    /// Shows the limit as if it were not used, at the address in an argument.
    fn limit(&self, argument: usize) -> Outcome {
        let address = self.arguments[argument];
        if address != 0 {
            let unlimited = libc::rlimit64 {
                rlim_cur: libc::RLIM64_INFINITY,
                rlim_max: libc::RLIM64_INFINITY,
            };
            self.write(address, bytes_of(&unlimited))?;
        }
        Ok(Answer::Value(0))
    }
}

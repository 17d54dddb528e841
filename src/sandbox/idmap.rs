//! Id maps of a user namespace: what may be mapped, and how the map is written.
//!
//! See `user_namespaces(7)`, `subuid(5)`, `newuidmap(1)`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Error;

/// Ids that a Debian system uses: 0 to 65535, where 65534 is nobody.
pub const NEEDED_IDS: u32 = 65536;

/// One line of a `uid_map`: `count` ids from `inside` are those from `outside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First id in the new namespace.
    pub inside: u32,
    /// First id in the namespace of the writer.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Parses `/proc/PID/uid_map`; lines that are not three numbers are left out.
pub fn parse_map(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<u32>);
            match (fields.next()?, fields.next()?, fields.next()?) {
                (Ok(inside), Ok(outside), Ok(count)) => Some(Extent {
                    inside,
                    outside,
                    count,
                }),
                _ => None,
            }
        })
        .collect()
}

/// The map that keeps every id of the current namespace as it is.
pub fn identity(current: &[Extent]) -> Vec<Extent> {
    current
        .iter()
        .map(|extent| Extent {
            inside: extent.inside,
            outside: extent.inside,
            count: extent.count,
        })
        .collect()
}

/// Number of ids in a map, without overflow.
pub fn size(map: &[Extent]) -> u64 {
    map.iter().map(|extent| u64::from(extent.count)).sum()
}

/// The ranges that `/etc/subuid` (or `subgid`) gives to a user, in file order.
///
/// A line is `NAME:FIRST:COUNT`, where the name may be the user's number.
pub fn parse_subordinate(text: &str, name: Option<&str>, id: u32) -> Vec<(u32, u32)> {
    let number = id.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (who, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            if Some(who) != name && who != number {
                return None;
            }
            let (first, count) = (first.parse().ok()?, count.parse().ok()?);
            // A range past the end of the id space cannot be mapped.
            (count > 0 && u32::checked_add(first, count - 1).is_some()).then_some((first, count))
        })
        .collect()
}

/// Maps 0 to the caller and 1 upwards to the subordinate ranges, up to 65536 ids.
pub fn subordinate(own: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut map = vec![Extent {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut next = 1;
    for &(first, count) in ranges {
        let count = count.min(NEEDED_IDS - next);
        if count == 0 {
            break;
        }
        map.push(Extent {
            inside: next,
            outside: first,
            count,
        });
        next += count;
    }
    map
}

/// The name of a user, from `/etc/passwd` alone: a static binary must not load
/// the host's NSS modules.
pub fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (id == uid).then(|| name.to_owned())
    })
}

/// Maps for both kinds of id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    /// User ids.
    pub users: Vec<Extent>,
    /// Group ids.
    pub groups: Vec<Extent>,
    /// Whether the maps need the privileged `newuidmap` and `newgidmap`.
    pub by_tool: bool,
}

/// What is in a file of the system, in which names of users may be in any encoding; nothing
/// if there is no such file.
pub(crate) fn text_of(path: &str) -> io::Result<String> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

impl Maps {
    /// Everything that the current namespace has, under the same numbers.
    pub fn full() -> io::Result<Maps> {
        let read = |name: &str| -> io::Result<Vec<Extent>> {
            Ok(identity(&parse_map(&fs_err::read_to_string(format!(
                "/proc/self/{name}"
            ))?)))
        };
        Ok(Maps {
            users: read("uid_map")?,
            groups: read("gid_map")?,
            by_tool: false,
        })
    }

    /// The caller as 0 and its subordinate ids from 1.
    pub fn subordinate(uid: u32, gid: u32) -> Result<Maps, Error> {
        let passwd = text_of("/etc/passwd").unwrap_or_default();
        let name = user_name(&passwd, uid);
        let user = name.clone().unwrap_or_else(|| uid.to_string());
        let refuse = |reason: String, hints: Vec<String>| Error::NoSubordinateIds {
            user: user.clone(),
            reason,
            hints,
        };
        let mut maps = Vec::new();
        for (file, own) in [("/etc/subuid", uid), ("/etc/subgid", gid)] {
            let text = text_of(file)
                .map_err(|error| refuse(format!("it cannot be read: {error}"), Vec::new()))?;
            let map = subordinate(own, &parse_subordinate(&text, name.as_deref(), uid));
            if size(&map) < u64::from(NEEDED_IDS) {
                let found = size(&map) - 1;
                return Err(refuse(
                    format!("`{file}` gives {found} ids, {} are needed", NEEDED_IDS - 1),
                    range_hints(name.as_deref(), uid, first_free()),
                ));
            }
            maps.push(map);
        }
        for tool in ["newuidmap", "newgidmap"] {
            if find_program(tool).is_none() {
                return Err(refuse(format!("`{tool}` is not installed"), tool_hints()));
            }
        }
        let groups = maps.pop().unwrap_or_default();
        let users = maps.pop().unwrap_or_default();
        Ok(Maps {
            users,
            groups,
            by_tool: true,
        })
    }

    /// The caller as 0, and nothing else.
    pub fn single(uid: u32, gid: u32) -> Maps {
        let only = |outside| {
            vec![Extent {
                inside: 0,
                outside,
                count: 1,
            }]
        };
        Maps {
            users: only(uid),
            groups: only(gid),
            by_tool: false,
        }
    }

    /// Whether `setgroups(2)` has to be given up for the map of groups: without
    /// privilege the kernel takes no other than that of one's own group then.
    pub(super) fn without_setgroups(&self) -> bool {
        !self.by_tool && size(&self.groups) == 1
    }

    /// Writes the maps of process `pid`, which has just made its user namespace.
    pub fn write(&self, pid: nix::unistd::Pid) -> Result<(), Error> {
        if self.by_tool {
            // Side by side, as each takes longer than all else that is done here.
            let users = start_tool("newuidmap", pid, &self.users);
            let groups = start_tool("newgidmap", pid, &self.groups);
            // Both are waited for, whatever the first one says.
            let (users, groups) = (users.and_then(Tool::end), groups.and_then(Tool::end));
            return users.and(groups);
        }
        for (file, map) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            if file == "gid_map" && self.without_setgroups() {
                // Fails where it was given up before, which is as good.
                let _ = std::fs::write(format!("/proc/{pid}/setgroups"), "deny");
            }
            let text: String = map
                .iter()
                .map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count))
                .collect();
            let path = PathBuf::from(format!("/proc/{pid}/{file}"));
            // The kernel takes a map in one write only.
            std::fs::write(&path, text).map_err(|source| Error::NoUserNamespace {
                reason: format!("writing `{}` is refused", path.display()),
                hints: vec![
                    "root in a container needs the capabilities SETUID, SETGID and SETFCAP; \
                     without them run kiln as another user than root"
                        .to_owned(),
                ],
                source,
            })?;
        }
        Ok(())
    }
}

/// `newuidmap(1)` or `newgidmap(1)`, started.
struct Tool {
    program: PathBuf,
    running: Child,
}

fn start_tool(tool: &str, pid: nix::unistd::Pid, map: &[Extent]) -> Result<Tool, Error> {
    let program = find_program(tool).unwrap_or_else(|| PathBuf::from(tool));
    let mut command = Command::new(&program);
    command
        .arg(pid.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for extent in map {
        for number in [extent.inside, extent.outside, extent.count] {
            command.arg(number.to_string());
        }
    }
    let running = command
        .spawn()
        .map_err(Error::system(format!("starting `{}`", program.display())))?;
    Ok(Tool { program, running })
}

impl Tool {
    fn end(self) -> Result<(), Error> {
        let program = self.program.display();
        let output = self
            .running
            .wait_with_output()
            .map_err(Error::system(format!("waiting for `{program}`")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; ");
        let hints = if said.contains("Cannot determine your user name") {
            vec![NAMELESS.to_owned()]
        } else {
            vec![
                format!(
                    "`{program}` needs its set-user-id bit or file capability: as an \
                     administrator, `chmod u+s {program}`"
                ),
                "a process with no_new_privs set (some containers and services) cannot use it at \
                 all"
                .to_owned(),
            ]
        };
        Err(Error::NoSubordinateIds {
            user: nix::unistd::getuid().to_string(),
            reason: format!("`{program}` failed: {}", said.trim_end_matches('.')),
            hints,
        })
    }
}

/// A program on PATH or in the usual directories of administrators' programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    find_in(&path, name)
}

/// Not in the current directory, which hooks of an earlier build may have written to: this
/// runs outside of any sandbox.
fn find_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn range_hints(name: Option<&str>, uid: u32, first: u32) -> Vec<String> {
    let again = "then run kiln again; no logout is needed".to_owned();
    match name {
        Some(user) => {
            let range = format!("{first}-{}", first.saturating_add(NEEDED_IDS - 1));
            vec![
                format!(
                    "as an administrator, once: `usermod --add-subuids {range} --add-subgids {range} {user}`"
                ),
                again,
            ]
        }
        // `usermod` knows no others than those of that file.
        None => vec![
            format!(
                "as an administrator, once: the line `{uid}:{first}:{NEEDED_IDS}` in /etc/subuid \
                 and in /etc/subgid, since /etc/passwd does not have the user"
            ),
            again,
            NAMELESS.to_owned(),
        ],
    }
}

/// What else a user needs whose number has no name.
const NAMELESS: &str = "the user needs a name as well, in /etc/passwd or a directory service \
                        (`id -un` prints it): `newuidmap` does nothing without";

/// The first id of a range that no line of `/etc/subuid` and `/etc/subgid` has.
fn first_free() -> u32 {
    let text: String = ["/etc/subuid", "/etc/subgid"]
        .iter()
        .map(|file| fs_err::read_to_string(file).unwrap_or_default() + "\n")
        .collect();
    free_after(&text)
}

/// The first id behind every range of a `subuid` file, at least 100000 as in `login.defs(5)`.
fn free_after(text: &str) -> u32 {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':').skip(1);
            let (first, count) = (fields.next()?, fields.next()?);
            u32::checked_add(first.parse().ok()?, count.parse().ok()?)
        })
        .fold(100_000, u32::max)
}

/// How to install the tools: on this distribution, if it is known.
pub(super) fn tool_hints() -> Vec<String> {
    let text = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let known = install_hint(&text);
    known.map_or_else(
        || INSTALL.iter().map(|(_, hint)| (*hint).to_owned()).collect(),
        |hint| vec![hint.to_owned()],
    )
}

/// By the `ID` of `os-release(5)`: what installs `newuidmap` and `newgidmap`.
const INSTALL: [(&[&str], &str); 5] = [
    (
        &["debian", "ubuntu"],
        "Debian and Ubuntu: `apt install uidmap`",
    ),
    (
        &["fedora", "rhel", "centos"],
        "Fedora, CentOS and RHEL: `dnf install shadow-utils`",
    ),
    (
        &["suse", "opensuse"],
        "openSUSE and SLES: `zypper install shadow`",
    ),
    (&["arch"], "Arch: `pacman -S shadow`"),
    (&["alpine"], "Alpine: `apk add shadow-subids`"),
];

/// The commands that install them, in backticks, by distribution.
pub fn install_commands() -> impl Iterator<Item = &'static str> {
    INSTALL
        .iter()
        .filter_map(|(_, hint)| hint.split_once(": ").map(|(_, command)| command))
}

/// The hint for the distribution of an `os-release`, or for one that it is like.
fn install_hint(os_release: &str) -> Option<&'static str> {
    let value = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_default()
            .trim_matches(['"', '\''])
            .to_owned()
    };
    let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
    ids.split_whitespace().find_map(|id| {
        INSTALL
            .iter()
            .find(|(known, _)| known.contains(&id))
            .map(|(_, hint)| *hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_not_looked_for_in_the_current_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let absolute = place.path().canonicalize().expect("there");
        let program = absolute.join("tool-of-a-hook");
        std::fs::copy("/bin/true", &program).expect("copied");
        let here = std::env::current_dir().expect("a directory");
        let up = here.components().skip(1).map(|_| Path::new(".."));
        let below = absolute.strip_prefix("/").expect("absolute");
        let relative: PathBuf = up.chain([below]).collect();
        assert!(relative.is_dir(), "{relative:?}");
        let find = |directory: &Path| find_in(directory.as_os_str(), "tool-of-a-hook");
        assert_eq!(find(&relative), None);
        assert_eq!(find(&absolute), Some(program));
    }

    #[test]
    fn subordinate_ranges_are_found_by_name_and_by_number() {
        let text = "alice:100000:65536\nbob:1:2\n1000:300000:10\n# x\nalice:5\n1000:4294967295:2\n";
        assert_eq!(
            parse_subordinate(text, Some("alice"), 1000),
            [(100000, 65536), (300000, 10)]
        );
        assert_eq!(parse_subordinate(text, None, 7), []);
    }

    #[test]
    fn a_map_joins_several_ranges_and_stops_at_65536_ids() {
        let map = subordinate(1000, &[(100000, 100), (200000, 70000), (400000, 5)]);
        assert_eq!(size(&map), u64::from(NEEDED_IDS));
        assert_eq!(
            map[1],
            Extent {
                inside: 1,
                outside: 100000,
                count: 100
            }
        );
        assert_eq!(
            map[2],
            Extent {
                inside: 101,
                outside: 200000,
                count: 65435
            }
        );
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn the_full_map_keeps_numbers_even_in_a_nested_namespace() {
        let current = parse_map("0 1000 1\n1 100000 65536\n");
        assert_eq!(
            identity(&current),
            [
                Extent {
                    inside: 0,
                    outside: 0,
                    count: 1
                },
                Extent {
                    inside: 1,
                    outside: 1,
                    count: 65536
                }
            ]
        );
    }

    #[test]
    fn the_tool_is_installed_as_the_distribution_does_it() {
        for (text, expected) in [
            ("ID=debian\n", Some("apt")),
            (
                "NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Some("apt"),
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Some("dnf"),
            ),
            (
                "ID=opensuse-leap\nID_LIKE='suse opensuse'\n",
                Some("zypper"),
            ),
            ("ID=alpine\n", Some("apk")),
            ("ID=arch\n", Some("pacman")),
            ("ID=other\n", None),
            ("", None),
        ] {
            let hint = install_hint(text);
            assert_eq!(hint.is_some(), expected.is_some(), "{text}");
            assert!(expected.is_none_or(|word| hint.is_some_and(|hint| hint.contains(word))));
        }
    }

    #[test]
    fn the_suggested_range_lies_behind_all_others() {
        assert_eq!(free_after(""), 100_000);
        assert_eq!(
            free_after("a:100000:65536\nb:300000:10\nbad\nc:1:x\n"),
            300_010
        );
    }

    #[test]
    fn user_names_come_from_passwd_lines() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nbad\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(user_name(passwd, 12), None);
    }
}

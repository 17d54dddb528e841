//! Each kind of host that restricts kiln gives a working build, or a refusal that
//! names the obstacle and the remedy before anything has run.
//!
//! The restrictions are set up by `common::host`: for root with every rule of a
//! container runtime, for a normal user with those that it may set itself.

#[path = "common/archive.rs"]
mod archive;
mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::filter::failing_from;
use common::host::{self, Host, USER};
use common::listing::{differences, listing_of};
use common::toy::{Built, Toy};
use kiln::build::event::Event;
use nix::mount::MsFlags;

/// A root with a file that is not root's, which a hook inside the target made.
fn toy() -> Toy {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "50-owner",
        "mkdir -p /srv\n: >/srv/file\nchown 33:44 /srv/file\n\
         [ \"$(stat -c %u:%g /srv/file)\" = 33:44 ]\n\
         [ -c /dev/null ] && [ \"$(head -c 3 /dev/zero | wc -c)\" = 3 ]\n\
         [ \"$(readlink /proc/self)\" != '' ] && read -r name </proc/$$/comm",
    );
    toy
}

fn infos(built: &Built) -> Vec<String> {
    built
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Info { text } | Event::Warning { text } => Some(text.clone()),
            _ => None,
        })
        .collect()
}

/// The build works in this mode, says why in these words, and its image is right.
#[track_caller]
fn works(host: &Host, toy: &Toy, arguments: &str, mode: &str, said: &[&str]) {
    let built = host.build(toy, &format!("-t tar {arguments}"));
    if !built.outcome.status.success() {
        let (message, hints, _) = built.failure();
        panic!("{message}\n{hints:#?}\n{}", built.lines().join("\n"));
    }
    let infos = infos(&built).join("\n");
    assert!(infos.contains(&format!("as mode `{mode}`")), "{infos}");
    for text in said {
        assert!(infos.contains(text), "not said: {text}\n{infos}");
    }
    let file = std::fs::File::open(toy.output("tar")).expect("an image");
    let owners: BTreeMap<String, (u64, u64)> = tar::Archive::new(file)
        .entries()
        .expect("a tar")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let header = entry.header();
            let owner = (
                header.uid().expect("an owner"),
                header.gid().expect("a group"),
            );
            (entry.path().expect("a path").display().to_string(), owner)
        })
        .collect();
    assert_eq!(owners["./srv/file"], (33, 44));
    assert_eq!(owners["./etc/passwd"], (0, 0));
    toy.assert_swept();
}

/// The build is refused in these words before any hook has run.
#[track_caller]
fn refuses(host: &Host, toy: &Toy, arguments: &str, said: &[&str]) {
    let built = host.build(toy, &format!("-t tar {arguments}"));
    let (message, hints, _) = built.failure();
    let all = format!("{message}\n{}", hints.join("\n"));
    for text in said {
        assert!(all.contains(text), "not said: {text}\n{all}");
    }
    assert!(!hints.is_empty(), "no remedy: {message}");
    documented(&hints);
    assert!(
        !built
            .events
            .iter()
            .any(|event| matches!(event, Event::HookStarted { .. })),
        "a hook ran"
    );
    assert!(toy.outputs().iter().all(|name| !name.ends_with(".tar")));
    toy.assert_swept();
}

/// Words as they are separated by single spaces.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Each hint is among those of the documentation.
#[track_caller]
fn documented(hints: &[String]) {
    let documentation = words(include_str!("../docs/hosts.md"));
    for hint in hints {
        // A range of numbers, and the name or number of the user that lacks it.
        let general: Vec<String> = hint
            .split_whitespace()
            .map(|word| {
                let number =
                    |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                let line: Vec<&str> = word.trim_matches('`').split(':').collect();
                match word.split_once('-') {
                    Some((first, last)) if number(first) && number(last) => "FIRST-LAST".to_owned(),
                    _ if line.len() == 3 && line.iter().all(|part| number(part)) => {
                        format!("`UID:FIRST:{}`", line[2])
                    }
                    _ if word.trim_end_matches('`') == host::USER_NAME => "USER`".to_owned(),
                    _ => word.to_owned(),
                }
            })
            .collect();
        let general = general.join(" ");
        assert!(
            documentation.contains(&general),
            "not in docs/hosts.md: {general}"
        );
    }
}

/// Returns from a test whose rules only root can set up.
macro_rules! as_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            skip!("only root can set up these rules");
        }
    };
}

/// Returns from a test that tries what a normal user has.
macro_rules! as_user {
    () => {
        if nix::unistd::geteuid().is_root() {
            skip!("root is no normal user");
        }
    };
}

// Behind the macros, which it uses.
#[path = "hosts/owners.rs"]
mod owners;
#[path = "hosts/places.rs"]
mod places;
#[path = "hosts/told.rs"]
mod told;

/// `kiln doctor --json` on a host, and its exit status.
fn doctor(host: &Host, toy: &Toy) -> (serde_json::Value, i32) {
    let outcome = host.kiln(toy, "doctor --json");
    let report = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", outcome.stdout, outcome.stderr));
    (report, outcome.code())
}

/// [`USER`] with a name and so many subordinate ids.
fn user(toy: &Toy, ids: u32) -> Host {
    host::with_subordinate_ids(Host::new(), toy, ids)
}

#[test]
fn subordinate_ids_are_used_where_they_are_to_be_had() {
    as_root!();
    let toy = toy();
    works(&user(&toy, 65536).user(USER), &toy, "", "subordinate", &[]);
}

#[test]
fn without_subordinate_ids_or_their_tool_a_single_id_is_used() {
    as_root!();
    let toy = toy();
    works(
        &user(&toy, 0).user(USER),
        &toy,
        "--overwrite",
        "single",
        &["`/etc/subuid` gives 0 ids"],
    );
    works(
        &user(&toy, 1000).user(USER),
        &toy,
        "--overwrite",
        "single",
        &["`/etc/subuid` gives 1000 ids, 65535 are needed"],
    );
    let tool = common::tool("newuidmap").expect("the package uidmap is installed");
    let copy = toy.world.work().join("newuidmap");
    std::fs::copy(&tool, &copy).expect("it can be copied");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
    std::fs::set_permissions(&copy, mode(0o755)).expect("it is ours");
    works(
        &user(&toy, 65536).cover(&tool, &copy).user(USER),
        &toy,
        "--overwrite",
        "single",
        &["newuidmap` failed"],
    );
    std::fs::set_permissions(&copy, mode(0o644)).expect("it is ours");
    works(
        &user(&toy, 65536).cover(&tool, &copy).user(USER),
        &toy,
        "--overwrite",
        "single",
        &["`newuidmap` is not installed"],
    );
    works(
        &user(&toy, 65536).user(USER).no_new_privileges(),
        &toy,
        "--overwrite",
        "single",
        &["newuidmap` failed"],
    );
}

#[test]
fn a_forced_mode_that_is_not_to_be_had_is_refused_with_the_remedy() {
    as_root!();
    let toy = toy();
    refuses(
        &user(&toy, 1000).user(USER),
        &toy,
        "--mode subordinate",
        &["`/etc/subuid` gives 1000 ids", "usermod --add-subuids"],
    );
    refuses(
        &user(&toy, 0).user(USER),
        &toy,
        "--mode chroot",
        &["only root may change its root directory"],
    );
}

#[test]
fn a_masked_proc_costs_the_process_numbers_and_nothing_else() {
    as_root!();
    let toy = toy();
    let shared = "no process numbers of its own";
    for (ids, mode) in [(65536, "subordinate"), (0, "single")] {
        works(
            &user(&toy, ids).masked().user(USER),
            &toy,
            "--overwrite",
            mode,
            &[shared],
        );
    }
    works(&Host::podman(), &toy, "--overwrite", "root", &[shared]);
}

#[test]
fn root_of_a_docker_container_changes_its_root_directory_only() {
    as_root!();
    let toy = toy();
    works(
        &Host::docker(),
        &toy,
        "--overwrite",
        "chroot",
        &["container's system call filter", "nothing can be mounted"],
    );
    works(
        &Host::docker().no_new_privileges(),
        &toy,
        "--overwrite",
        "chroot",
        &[],
    );
    let mut more = host::DOCKER.to_vec();
    more.push(caps::Capability::CAP_SYS_ADMIN);
    works(
        &Host::new()
            .masked()
            .docker_filter(&more)
            .capabilities(&more),
        &toy,
        "--overwrite",
        "root",
        &[],
    );
}

#[test]
fn programs_are_looked_into_as_older_versions_of_docker_allow_it() {
    as_root!();
    // Before Docker 23 these wanted `CAP_SYS_PTRACE`.
    let older = Host::docker().refuse(
        &[
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kcmp,
        ],
        libc::EPERM,
    );
    works(&older, &toy(), "", "chroot", &[]);
}

#[test]
fn devices_that_cannot_be_made_are_the_containers_own() {
    as_root!();
    let toy = toy();
    let kept: Vec<_> = host::DOCKER
        .into_iter()
        .filter(|&one| one != caps::Capability::CAP_MKNOD)
        .collect();
    let host = Host::new()
        .masked()
        .docker_filter(&kept)
        .capabilities(&kept);
    works(&host, &toy, "", "chroot", &[]);
}

#[test]
fn a_container_that_allows_nothing_is_told_what_it_must_allow() {
    as_root!();
    let toy = toy();
    let none: [caps::Capability; 0] = [];
    // A pod with `runAsNonRoot`, no capabilities, and containerd's RuntimeDefault.
    refuses(
        &Host::new()
            .masked()
            .docker_filter(&none)
            .user(USER)
            .no_new_privileges(),
        &toy,
        "",
        &[
            "a container's system call filter refuses it",
            "run the container as root",
            "seccomp=unconfined",
        ],
    );
    // The same under CRI-O's, which allows user namespaces and yet no change of root.
    refuses(
        &Host::new()
            .masked()
            .podman_filter(&none)
            .user(USER)
            .no_new_privileges(),
        &toy,
        "",
        &[
            "changing the root directory is refused",
            "--cap-add SYS_CHROOT",
        ],
    );
    // Root with nothing: neither namespaces nor a change of the root directory.
    let nothing = Host::new()
        .masked()
        .docker_filter(&none)
        .capabilities(&none);
    refuses(
        &nothing,
        &toy,
        "",
        &["CAP_SYS_CHROOT", "--cap-add SYS_CHROOT"],
    );
    let (_, hints, _) = nothing.build(&toy, "-t tar").failure();
    let said = hints.join("\n");
    assert!(!said.contains("run the container as root"), "{said}");
    // The filter allows user namespaces, and root may not be mapped.
    refuses(
        &Host::new().masked().capabilities(&none),
        &toy,
        "",
        &["SETFCAP", "as another user than root"],
    );
}

#[test]
fn kernel_settings_that_forbid_user_namespaces_are_named() {
    as_root!();
    let toy = toy();
    refuses(
        &user(&toy, 65536).nested().no_more_namespaces().user(USER),
        &toy,
        "",
        &[
            "user.max_user_namespaces (0)",
            "sysctl -w user.max_user_namespaces=",
        ],
    );
    // This kernel has not got these two settings: files stand for them, and a filter
    // gives the errors.
    let settings = |name: &str, value: &str| {
        let directory = toy.world.work().join(format!("settings-{name}"));
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join(name), value).expect("written");
        Host::new().cover("/proc/sys/kernel", directory)
    };
    refuses(
        &settings("unprivileged_userns_clone", "0\n")
            .refuse(&[libc::SYS_unshare], libc::EPERM)
            .user(USER),
        &toy,
        "",
        &[
            "kernel.unprivileged_userns_clone is 0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ],
    );
    refuses(
        &settings("apparmor_restrict_unprivileged_userns", "1\n")
            .refuse(&[libc::SYS_mount], libc::EACCES)
            .user(USER),
        &toy,
        "",
        &["AppArmor restricts", "/etc/apparmor.d/kiln"],
    );
    // Linux before 5.12.
    let old = user(&toy, 0).refuse(&[libc::SYS_mount_setattr], libc::ENOSYS);
    let old = old.user(USER);
    refuses(
        &old,
        &toy,
        "",
        &["made read-only", "Linux 5.12 or newer is needed"],
    );
    let (report, code) = doctor(&old, &toy);
    assert_eq!((&report["builds"], code), (&false.into(), 1));
}

#[test]
fn programs_that_may_not_be_looked_into_are_not_answered() {
    as_root!();
    let toy = toy();
    // Without a guard signals may interrupt calls, and nothing else.
    let untraced = user(&toy, 0).refuse(&[libc::SYS_ptrace], libc::EPERM);
    works(&untraced.user(USER), &toy, "--overwrite", "single", &[]);
    // What Yama refuses; a file stands for its setting, and reading of that with addresses for
    // opening `/proc/PID/mem`.
    let calls = [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
    ];
    let yama = |host: Host, scope: &str| {
        let settings = toy.world.work().join(format!("settings-yama-{scope}"));
        std::fs::create_dir_all(settings.join("yama")).expect("made");
        std::fs::write(settings.join("yama/ptrace_scope"), scope).expect("written");
        host.cover("/proc/sys/kernel", &settings)
            .refuse(&calls, libc::EPERM)
            .load(failing_from(libc::SYS_pread64, u32::MAX, libc::EACCES))
    };
    let strict = |ids| yama(user(&toy, ids), "3").user(USER);
    std::fs::remove_file(toy.output("tar")).expect("ours");
    refuses(
        &strict(0),
        &toy,
        "",
        &[
            "kernel.yama.ptrace_scope is 3",
            "/etc/sysctl.d, and restart",
        ],
    );
    // Root of a container, whose programs are in no user namespace of kiln's.
    let kept = host::DOCKER;
    let container = yama(Host::new().masked(), "2").docker_filter(&kept);
    refuses(
        &container.capabilities(&kept),
        &toy,
        "",
        &["kernel.yama.ptrace_scope is 2", "--cap-add SYS_PTRACE"],
    );
    works(&strict(65536), &toy, "", "subordinate", &[]);
    let (report, _) = doctor(&strict(65536), &toy);
    let checks = report["checks"].as_array().expect("a list");
    let answers = checks
        .iter()
        .find(|check| check["name"] == "seccomp notifications")
        .expect("it is there");
    assert_eq!(answers["status"], "degraded", "{answers:#}");
    let detail = answers["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("kernel.yama.ptrace_scope is 3"),
        "{answers:#}"
    );
}

#[test]
fn a_kernel_that_asks_nobody_about_calls_still_has_many_ids() {
    as_root!();
    let toy = toy();
    let old = |ids| user(&toy, ids).refuse(&[libc::SYS_seccomp], libc::ENOSYS);
    works(&old(65536).user(USER), &toy, "", "subordinate", &[]);
    std::fs::remove_file(toy.output("tar")).expect("ours");
    refuses(
        &old(0).user(USER),
        &toy,
        "",
        &["seccomp notifications are refused", "Linux 5.14"],
    );
}

#[test]
fn a_filesystem_without_locks_is_named() {
    as_root!();
    let toy = toy();
    // NFS without its lock manager.
    refuses(
        &user(&toy, 65536)
            .refuse(&[libc::SYS_flock], libc::ENOLCK)
            .user(USER),
        &toy,
        "",
        &["locking", "No locks available", "TMPDIR"],
    );
}

#[test]
fn namespaces_that_are_nested_as_deep_as_possible_leave_the_root_directory() {
    let toy = toy();
    // As root of the innermost one, without one more.
    works(
        &Host::new().nested_fully(),
        &toy,
        "--overwrite",
        "chroot",
        &["user.max_user_namespaces"],
    );
    works(
        &Host::new().nested_with_one_id().no_more_namespaces(),
        &toy,
        "--overwrite",
        "chroot",
        &["user.max_user_namespaces (0)"],
    );
}

#[test]
fn root_of_a_namespace_with_one_id_has_one_id() {
    let toy = toy();
    works(&Host::new().nested_with_one_id(), &toy, "", "single", &[]);
}

#[test]
fn calls_that_another_program_answers_are_named() {
    let toy = toy();
    refuses(
        &Host::new().answered_by_another(),
        &toy,
        "--mode single",
        &["another program already answers", "run kiln outside of it"],
    );
    // Where ids are real, only devices cannot be made. (A user who may load such a
    // filter may not have `newuidmap` run.)
    if nix::unistd::geteuid().is_root() {
        Host::new()
            .answered_by_another()
            .build(&toy, "-t tar --overwrite")
            .success();
    }
}

#[test]
fn a_normal_user_in_a_docker_container_is_told_what_to_allow() {
    as_user!();
    let toy = toy();
    refuses(
        &Host::new().docker_filter(&[]),
        &toy,
        "",
        &["system call filter", "run the container as root"],
    );
}

#[test]
fn a_normal_user_without_more_namespaces_is_told_the_setting() {
    as_user!();
    let toy = toy();
    refuses(
        &Host::new()
            .nested_with_one_id()
            .no_more_namespaces()
            .capabilities(&[]),
        &toy,
        "",
        &["user.max_user_namespaces (0)", "sysctl -w"],
    );
}

#[test]
fn devices_sys_and_control_groups_may_be_missing() {
    as_root!();
    let toy = toy();
    let flags = MsFlags::MS_RDONLY;
    let empty = toy.world.work().join("dev");
    std::fs::create_dir_all(&empty).expect("made");
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        std::fs::write(empty.join(node), "").expect("made");
    }
    // No /dev/fuse, no /dev/kvm: nothing but what every container has.
    let mut bare = user(&toy, 65536);
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        bare = bare.cover(empty.join(node), format!("/dev/{node}"));
    }
    for name in ["pts", "shm"] {
        std::fs::create_dir_all(empty.join(name)).expect("made");
    }
    let bare = bare.cover("/dev", &empty).memory("/sys", flags, "size=0k");
    works(&bare.user(USER), &toy, "--overwrite", "subordinate", &[]);
    let second = user(&toy, 65536).control_groups("/sys/fs/cgroup");
    works(&second.user(USER), &toy, "--overwrite", "subordinate", &[]);
}

#[test]
fn memory_is_counted_by_a_control_group_where_one_is_given_to_the_user() {
    as_root!();
    let toy = toy();
    let arguments = "--overwrite --memory 1G";
    for (ids, mode) in [(65536, "subordinate"), (0, "single")] {
        works(
            &user(&toy, ids).user(USER),
            &toy,
            arguments,
            mode,
            &["no control group with memory is delegated to this user"],
        );
        let group = match host::ControlGroup::new() {
            Ok(group) => group,
            Err(error) => skip!("no control group with memory can be made here: {error}"),
        };
        works(
            &user(&toy, ids).delegated(&group).user(USER),
            &toy,
            arguments,
            mode,
            &["memory is limited to 1024 MiB by a control group"],
        );
    }
}

/// `dpkg` of a root that has only one package, which needs no configuration.
const DPKG: &str = "#!/bin/sh\nexec sed -i 's/^Status: .*/Status: install ok installed/' \
    /var/lib/dpkg/status\n";

/// A toy whose root comes from a package, and so from a cache.
fn packaged_toy() -> Toy {
    let source = Toy::basic();
    source.hook(
        "install",
        "50-dpkg",
        &format!("cat >/usr/bin/dpkg <<'END'\n{DPKG}END\nchmod 755 /usr/bin/dpkg"),
    );
    let built = source.build("-t tar");
    assert!(built.outcome.status.success(), "{:?}", built.lines());
    let root = std::fs::read(source.output("tar")).expect("a tar");
    // Every root gets apt.
    let control = format!(
        "Package: apt\nVersion: 1\nArchitecture: amd64\nEssential: yes\nInstalled-Size: {}\n\
         Maintainer: Nobody <nobody@example.org>\nDescription: all of it\n",
        root.len() / 1024
    );
    let deb = archive::deb(&control, archive::gzip(&root, 0));
    let index = archive::paragraph(&control, &deb);
    let toy = Toy::empty();
    let packed = archive::gzip(index.as_bytes(), 0);
    archive::serve_to(&toy, index.as_bytes(), packed, deb);
    toy.hook(
        "install",
        "50-owner",
        "mkdir -p /srv\n: >/srv/file\nchown 33:44 /srv/file",
    );
    toy
}

#[test]
fn a_cached_root_is_copied_where_overlayfs_is_refused() {
    as_root!();
    let toy = packaged_toy();
    let cache = toy.world.home().join("image-cache");
    std::fs::create_dir(&cache).expect("made");
    let arguments = format!("-t tar --overwrite --image-cache '{}'", cache.display());
    let host = || user(&toy, 65536);
    let mut images = Vec::new();
    for (host, copied) in [(host().stacked(&cache), true), (host(), false)] {
        let built = host.user(USER).build(&toy, &arguments);
        assert!(built.outcome.status.success(), "{:?}", built.lines());
        assert!(infos(&built).join("\n").contains("as mode `subordinate`"));
        let said = built.lines().join("\n");
        let notice = "copying the root, since overlayfs is not to be had here";
        assert_eq!(said.contains(notice), copied, "{said}");
        images.push(listing_of(&toy.output("tar")));
    }
    let different = differences(&images[0], &images[1]);
    assert!(different.is_empty(), "{}", different.join("\n"));
}

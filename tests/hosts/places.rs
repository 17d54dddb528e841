//! Directories that a build, its cache and its output are in.

use super::*;

#[test]
fn odd_temporary_directories_work_in_memory_and_are_refused_on_disk() {
    as_root!();
    let toy = toy();
    let tmp = toy.world.tmp();
    let open = "mode=0777";
    let noexec = user(&toy, 65536)
        .memory(&tmp, MsFlags::MS_NOEXEC, open)
        .user(USER);
    works(&noexec, &toy, "--overwrite", "subordinate", &[]);
    std::fs::remove_file(toy.output("tar")).expect("ours");
    refuses(
        &noexec,
        &toy,
        "--no-tmpfs",
        &["noexec", "TMPDIR", "leave `--no-tmpfs` out"],
    );
    let small = user(&toy, 65536)
        .memory(&tmp, MsFlags::empty(), "mode=0777,size=8m")
        .user(USER);
    works(&small, &toy, "--overwrite", "subordinate", &[]);
    std::fs::remove_file(toy.output("tar")).expect("ours");
    refuses(&small, &toy, "--no-tmpfs", &["8 MiB are free", "TMPDIR"]);
    let crowded = user(&toy, 65536)
        .memory(&tmp, MsFlags::empty(), "mode=0777,nr_inodes=60")
        .user(USER);
    works(&crowded, &toy, "--overwrite", "subordinate", &[]);
    std::fs::remove_file(toy.output("tar")).expect("ours");
    refuses(
        &crowded,
        &toy,
        "--no-tmpfs",
        &["more files (`df -i`)", "TMPDIR"],
    );
    let nosuid = user(&toy, 0)
        .memory(&tmp, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, open)
        .user(USER);
    works(&nosuid, &toy, "--no-tmpfs --overwrite", "single", &[]);
}

#[test]
fn shared_memory_can_be_where_a_build_is() {
    let mut toy = toy();
    toy.world.set("TMPDIR", "/dev/shm");
    let host = Host::new()
        .nested_with_one_id()
        .memory("/dev/shm", MsFlags::empty(), "mode=1777");
    for place in ["", "--no-tmpfs"] {
        works(&host, &toy, &format!("--overwrite {place}"), "single", &[]);
    }
}

#[test]
fn a_home_without_birth_times_and_attributes_serves() {
    as_root!();
    let toy = toy();
    let cache = toy.world.home().join(".cache");
    std::fs::create_dir_all(&cache).expect("made");
    for (ids, mode) in [(65536, "subordinate"), (0, "single")] {
        works(
            &user(&toy, ids)
                .plain_filesystem(toy.world.tmp())
                .plain_filesystem(&cache)
                .user(USER),
            &toy,
            "--overwrite",
            mode,
            &[],
        );
    }
}

#[test]
fn a_read_only_host_needs_a_place_to_build_in() {
    as_root!();
    let toy = toy();
    let top: PathBuf = toy.world.work().parent().expect("it has one").to_owned();
    works(
        &user(&toy, 65536).read_only(&[top]).user(USER),
        &toy,
        "--overwrite",
        "subordinate",
        &[],
    );
    std::fs::remove_file(toy.output("tar")).expect("ours");
    let parts = [toy.world.work(), toy.world.home()];
    refuses(
        &user(&toy, 65536).read_only(&parts).user(USER),
        &toy,
        "--overwrite -o other",
        &["making a build directory", "TMPDIR"],
    );
}

#[test]
fn who_stands_on_a_read_only_filesystem_has_the_output_elsewhere() {
    as_root!();
    let toy = toy();
    let parts = [toy.world.tmp(), toy.world.home()];
    let output = toy.world.home().join("toy");
    for (host, mode) in [
        (
            user(&toy, 65536).read_only(&parts).user(USER),
            "subordinate",
        ),
        (user(&toy, 10).read_only(&parts).user(USER), "single"),
        (Host::new().read_only(&parts), "root"),
    ] {
        let arguments = format!("-t tar --overwrite -o {}", output.display());
        let built = host.build(&toy, &arguments).success();
        let said = format!("as mode `{mode}`");
        assert!(built.outcome.stdout.contains(&said), "{:?}", built.events);
    }
}

#[test]
fn a_host_with_less_memory_than_is_wanted_needs_a_directory_that_serves() {
    as_root!();
    let mut toy = toy();
    let tmp = toy.world.tmp();
    let noexec = user(&toy, 65536)
        .memory(&tmp, MsFlags::MS_NOEXEC, "mode=0777")
        .user(USER);
    let found = |toy: &Toy, host: &Host| {
        let (report, code) = doctor(host, toy);
        let found = owners::check(&report, "temporary directory").clone();
        (code, found["status"].clone(), found["remedy"].to_string())
    };
    let (code, status, remedy) = found(&toy, &noexec);
    assert!(
        code == 0 && status == "degraded",
        "{code} {status} {remedy}"
    );
    // More than any machine has.
    toy.world.set("DIB_MIN_TMPFS", "1000000");
    let hint = "`--min-tmpfs 1`";
    refuses(&noexec, &toy, "", &["noexec", "TMPDIR", hint]);
    let (code, status, remedy) = found(&toy, &noexec);
    assert!(code == 1 && status == "missing", "{code} {status} {remedy}");
    assert!(
        remedy.contains("TMPDIR") && remedy.contains(hint),
        "{remedy}"
    );
    works(
        &noexec,
        &toy,
        "--overwrite --min-tmpfs 1",
        "subordinate",
        &[],
    );
    // Nothing can be mounted in this mode, so that memory does not matter.
    toy.world.set("DIB_MIN_TMPFS", "1");
    let docker = Host::new()
        .memory(&tmp, MsFlags::MS_NOEXEC, "mode=0777")
        .masked()
        .docker_filter(&host::DOCKER)
        .capabilities(&host::DOCKER);
    let (code, status, remedy) = found(&toy, &docker);
    assert!(code == 1 && status == "missing", "{code} {status} {remedy}");
}

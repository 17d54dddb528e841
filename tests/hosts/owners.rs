//! Filesystems whose files cannot be given to other users, as those of NFS.

use super::*;

/// A check of the doctor.
pub fn check<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = report["checks"].as_array().expect("a list");
    let found = checks.iter().find(|check| check["name"] == name);
    found.expect("it is there")
}

#[test]
fn a_build_where_files_keep_their_owner_is_refused_or_has_owners_recorded() {
    as_root!();
    let toy = toy();
    if !host::mounts_can_be_mapped(&toy) {
        skip!("no mount can be mapped to one id here");
    }
    let cache = toy.world.home().join(".cache");
    std::fs::create_dir_all(&cache).expect("made");
    let host = |ids| {
        user(&toy, ids)
            .own_files_only(toy.world.tmp())
            .own_files_only(&cache)
            .user(USER)
    };
    refuses(
        &host(65536),
        &toy,
        "--no-tmpfs",
        &["cannot be given", "TMPDIR", "--no-tmpfs", "--mode single"],
    );
    let on_disk = "--no-tmpfs --overwrite";
    let recorded = format!("{on_disk} --mode single");
    works(&host(65536), &toy, &recorded, "single", &[]);
    works(&host(0), &toy, on_disk, "single", &[]);
    works(&host(65536), &toy, "--overwrite", "subordinate", &[]);
    for (ids, status) in [(65536, "degraded"), (0, "ok")] {
        let (report, code) = doctor(&host(ids), &toy);
        assert_eq!(code, 0, "{report:#}");
        for name in ["temporary directory", "image cache"] {
            let found = check(&report, name);
            let detail = found["detail"].as_str().expect("a text");
            assert_eq!(
                detail.contains("cannot be given"),
                ids > 0,
                "{found:#}, expected {status}"
            );
        }
        assert_eq!(check(&report, "image cache")["status"], status);
    }
}

#[test]
fn a_root_that_the_cache_cannot_keep_is_made_in_the_target() {
    as_root!();
    let toy = packaged_toy();
    if !host::mounts_can_be_mapped(&toy) {
        skip!("no mount can be mapped to one id here");
    }
    let cache = toy.world.home().join("image-cache");
    std::fs::create_dir(&cache).expect("made");
    let arguments = format!("-t tar --overwrite --image-cache '{}'", cache.display());
    let host = || user(&toy, 65536);
    let mut images = Vec::new();
    for (host, kept) in [(host().own_files_only(&cache), false), (host(), true)] {
        let built = host.user(USER).build(&toy, &arguments);
        if !built.outcome.status.success() {
            panic!("{:?}\n{}", built.failure(), built.lines().join("\n"));
        }
        let said = built.lines().join("\n");
        assert_eq!(said.contains("the root is not kept"), !kept, "{said}");
        images.push(listing_of(&toy.output("tar")));
    }
    let different = differences(&images[0], &images[1]);
    assert!(different.is_empty(), "{}", different.join("\n"));
}

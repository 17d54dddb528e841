//! `source-repositories`: what its lists name is fetched into the root.

use std::fs;
use std::process::Command;

use crate::scratch::{Scratch, error_text};

const HOOK: &str = "extra-data.d/98-source-repositories";

fn shell(scratch: &Scratch, script: &str) {
    let output = Command::new("bash")
        .args(["-euc", script])
        .current_dir(scratch.outside())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
}

fn scratch() -> Option<Scratch> {
    let scratch = Scratch::new(&["source-repositories"])?;
    scratch.helpers(&["cache-url"]);
    let cache = scratch.outside().join("the cache");
    Some(
        scratch
            .with("DIB_IMAGE_CACHE", &cache.display().to_string())
            .with("DIB_MANIFEST_IMAGE_DIR", "/etc/dib-manifests")
            .with("IMAGE_NAME", "image")
            .with("HOME", "/nonexistent")
            .with("GIT_CONFIG_GLOBAL", "/dev/null"),
    )
}

/// The same, if the host has git.
fn scratch_with_git() -> Option<Scratch> {
    if !["/usr/bin/git", "/usr/local/bin/git"]
        .iter()
        .any(|path| std::path::Path::new(path).exists())
    {
        println!("SKIP: git is not installed");
        return None;
    }
    scratch()
}

#[test]
pub fn sources_of_every_type_are_brought_into_the_root() {
    let Some(mut scratch) = scratch_with_git() else {
        return;
    };
    shell(
        &scratch,
        "mkdir repo; cd repo; git init -q -b master; git config user.name a; git config user.email a@b
         echo one >file; git add file; git commit -qm one; git tag first
         echo two >file; git commit -qam two; git checkout -qb other; echo other >file; git commit -qam o
         git checkout -q master; cd ..
         mkdir -p archive/inner/deep; echo content >archive/inner/text; echo deep >archive/inner/deep/text
         tar -C archive -czf archive.tar.gz inner; echo plain >plain",
    );
    let base = scratch.outside().display().to_string().replace(' ', "\\ ");
    let outside = scratch.outside().display().to_string();
    // Paths of tests hold a blank, which the lists have no way to say.
    scratch.set("DIB_REPOLOCATION_head", &format!("{outside}/repo"));
    scratch.set("DIB_REPOLOCATION_heads", &format!("{outside}/repo"));
    scratch.set("DIB_REPOLOCATION_tagged", &format!("{outside}/repo"));
    scratch.set("DIB_REPOLOCATION_branch", &format!("{outside}/repo"));
    scratch.set("DIB_REPOREF_branch", "other");
    for name in ["all", "part", "whole"] {
        scratch.set(
            &format!("DIB_REPOLOCATION_{name}"),
            &format!("file://{}/archive.tar.gz", base.replace("\\ ", "%20")),
        );
    }
    scratch.set(
        "DIB_REPOLOCATION_a_file",
        &format!("file://{}/plain", base.replace("\\ ", "%20")),
    );
    scratch.set("DIB_INSTALLTYPE_skipped", "package");
    scratch.set("WHERE", "/opt");
    fs::write(
        scratch.hooks().join("source-repository-one"),
        "# comment\n\nhead git $WHERE/head git://overridden\ntagged git /opt/tagged git://overridden first\n\
         branch git /opt/branch git://overridden\nskipped git /opt/skipped git://nowhere\n",
    )
    .unwrap();
    fs::write(
        scratch.hooks().join("source-repository-two"),
        "all tar /opt/all http://overridden inn*\npart tar /opt/part http://overridden */deep\n\
         head git /opt/head git://overridden\nheads git /opt/heads git://overridden *\n\
         whole tar /opt/whole http://overridden .\na-file file /opt/dir/file http://overridden",
    )
    .unwrap();
    fs::write(scratch.hooks().join("source-repository-two~"), "nonsense\n").unwrap();
    scratch.run_outside(HOOK);
    for (path, content) in [
        ("opt/head/file", "two\n"),
        ("opt/tagged/file", "one\n"),
        ("opt/branch/file", "other\n"),
        ("opt/all/text", "content\n"),
        ("opt/all/deep/text", "deep\n"),
        ("opt/part/text", "deep\n"),
        ("opt/whole/inner/text", "content\n"),
        ("opt/dir/file", "plain\n"),
    ] {
        assert_eq!(scratch.read(path), content, "{path}");
    }
    assert!(!scratch.exists("opt/skipped"));
    // The main branch is where the reference is, and the reference has a branch.
    for (path, refs) in [
        ("opt/tagged", &["fetch_first", "master"][..]),
        ("opt/branch", &["fetch_other", "master"]),
        ("opt/heads", &["master", "other"]),
    ] {
        assert_eq!(
            scratch.read(&format!("{path}/.git/HEAD")),
            "ref: refs/heads/master\n"
        );
        for name in refs {
            assert!(
                scratch.exists(&format!("{path}/.git/refs/heads/{name}")),
                "{path} {name}"
            );
        }
    }
    assert_eq!(
        scratch.read("etc/dib-source-repositories"),
        "/opt/head\n/opt/tagged\n/opt/branch\n/opt/all\n/opt/part\n/opt/head\n/opt/heads\n/opt/whole\n/opt/dir/file\n"
    );
    let manifest = scratch.read("etc/dib-manifests/dib-manifest-git-image");
    assert!(manifest.starts_with("head git /opt/head "), "{manifest}");
    assert_eq!(manifest.lines().count(), 4);
    // From the cache, without what is was made of.
    shell(&scratch, "rm -rf repo archive.tar.gz plain; rm -r mnt/opt");
    scratch.set("DIB_OFFLINE", "1");
    fs::remove_file(scratch.hooks().join("source-repository-two")).unwrap();
    scratch.run_outside(HOOK);
    assert_eq!(scratch.read("opt/head/file"), "two\n");
}

#[test]
fn a_cache_of_upstreams_is_used_and_only_what_is_asked_for_is_fetched() {
    let Some(mut scratch) = scratch_with_git() else {
        return;
    };
    // As upstream's element leaves it: a clone with its main branch checked out.
    shell(
        &scratch,
        "git init -q -b master repo; cd repo; git config user.name a; git config user.email a@b
         echo one >file; git add file; git commit -qm one; cd ..
         mkdir -p 'the cache/source-repositories'
         sum=$(printf 'git_%s\n' \"$PWD/repo\" | sha1sum)
         git clone -q \"$PWD/repo\" \"the cache/source-repositories/my_code_${sum%% *}\"
         cd repo; echo two >file; git commit -qam two
         git checkout -q --detach; echo change >file; git commit -qam change
         git update-ref refs/changes/01/1/1 HEAD; git commit -q --allow-empty -m other
         git update-ref refs/changes/02/2/1 HEAD; git checkout -q master",
    );
    let location = format!("{}/repo", scratch.outside().display());
    for name in ["my_code", "change"] {
        scratch.set(&format!("DIB_REPOLOCATION_{name}"), &location);
    }
    fs::write(
        scratch.hooks().join("source-repository-code"),
        "my-code git /opt/code git://overridden\n\
         change git /opt/change git://overridden refs/changes/01/1/1\n",
    )
    .unwrap();
    scratch.run_outside(HOOK);
    assert_eq!(scratch.read("opt/code/file"), "two\n");
    assert_eq!(scratch.read("opt/change/file"), "change\n");
    shell(
        &scratch,
        "cd 'the cache/source-repositories'
         for store in change_* my_code_*; do git -C \"$store\" for-each-ref --format='%(refname)'; done |
             grep refs/changes >refs
         test \"$(cat refs)\" = refs/changes/01/1/1",
    );
    // The change is in the cache under its name.
    shell(&scratch, "rm -rf repo; rm -r mnt/opt");
    scratch.set("DIB_OFFLINE", "1");
    scratch.run_outside(HOOK);
    assert_eq!(scratch.read("opt/change/file"), "change\n");
}

#[test]
fn lists_that_make_no_sense_stop_the_build() {
    let Some(mut scratch) = scratch() else {
        return;
    };
    for (line, message) in [
        (
            "name svn /x y",
            "Couldn't parse 'name svn /x y' as a source repository",
        ),
        ("name package /x", "Unsupported repository type: package"),
        (
            "name git relative y",
            "name needs a destination and a location",
        ),
        ("name git /x", "name needs a destination and a location"),
    ] {
        fs::write(
            scratch.hooks().join("source-repository-bad"),
            format!("{line}\n"),
        )
        .unwrap();
        let output = scratch.outside_hook(HOOK);
        assert!(!output.status.success(), "{line}");
        assert!(
            error_text(&output).contains(message),
            "{}",
            error_text(&output)
        );
    }
    scratch.set("NO_SOURCE_REPOSITORIES", "1");
    scratch.run_outside(HOOK);
}

//! Unit files and their links in roots of a few files.

use super::*;

struct Root(tempfile::TempDir);

impl Root {
    fn new(files: &[(&str, &str)]) -> Root {
        let root = Root(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = root.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn units(&self) -> Units {
        Units::new(self.0.path(), false)
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.0.path().join(path)).ok()?;
        Some(target.display().to_string())
    }
}

const SSH: &str = "[Unit]\nWantedBy=not.this\n[Install]\nWantedBy=multi-user.target \\\n  b.target\nAlias=sshd.service\n# Also=x\nAlso=ssh.socket\n";

#[test]
fn enabling_links_as_the_install_section_says_and_disabling_undoes_it() {
    let root = Root::new(&[
        ("lib/systemd/system/ssh.service", SSH),
        (
            "lib/systemd/system/ssh.socket",
            "[Install]\nRequiredBy=sockets.target\n",
        ),
    ]);
    let units = root.units();
    assert_eq!(units.state("ssh.service"), State::Disabled);
    assert_eq!(units.enable("ssh.service").unwrap().len(), 4);
    let unit = "/lib/systemd/system/ssh.service";
    for (link, target) in [
        (
            "etc/systemd/system/multi-user.target.wants/ssh.service",
            unit,
        ),
        ("etc/systemd/system/b.target.wants/ssh.service", unit),
        ("etc/systemd/system/sshd.service", unit),
        (
            "etc/systemd/system/sockets.target.requires/ssh.socket",
            "/lib/systemd/system/ssh.socket",
        ),
    ] {
        assert_eq!(root.link(link).as_deref(), Some(target), "{link}");
    }
    assert!(
        units.enable("ssh.service").unwrap().is_empty(),
        "enabled twice"
    );
    assert_eq!(units.state("ssh.service"), State::Enabled);
    assert_eq!(units.state("sshd.service"), State::Alias);
    assert_eq!(units.disable("sshd.service").unwrap().len(), 4);
    assert!(
        !root
            .0
            .path()
            .join("etc/systemd/system/b.target.wants")
            .exists()
    );
    assert_eq!(units.state("ssh.service"), State::Disabled);
}

#[test]
fn templates_are_enabled_by_instance() {
    let root = Root::new(&[
        (
            "usr/lib/systemd/system/getty@.service",
            "[Install]\nWantedBy=getty.target\nAlias=autovt@%i.service\nDefaultInstance=tty1\n",
        ),
        (
            "usr/lib/systemd/system/bare@.service",
            "[Install]\nWantedBy=a.target\n",
        ),
    ]);
    let units = root.units();
    units.enable("getty@ttyS0.service").unwrap();
    units.enable("getty@.service").unwrap();
    let file = Some("/usr/lib/systemd/system/getty@.service".to_owned());
    for link in [
        "getty.target.wants/getty@ttyS0.service",
        "getty.target.wants/getty@tty1.service",
        "autovt@ttyS0.service",
    ] {
        assert_eq!(
            root.link(&format!("etc/systemd/system/{link}")),
            file,
            "{link}"
        );
    }
    assert_eq!(units.state("getty@ttyS0.service"), State::Enabled);
    assert_eq!(units.state("getty@ttyS1.service"), State::Disabled);
    let error = units.enable("bare@.service").unwrap_err();
    assert_eq!(error.hint().unwrap(), "name one: bare@NAME.service");
}

#[test]
fn masks_hide_a_unit_until_they_are_taken_away() {
    let root = Root::new(&[
        (
            "lib/systemd/system/a.service",
            "[Install]\nWantedBy=x.target\n",
        ),
        ("lib/systemd/system/s.service", "[Service]\n"),
        ("etc/systemd/system/own.service", "[Service]\n"),
    ]);
    let units = root.units();
    units.mask("a.service").unwrap();
    assert_eq!(
        root.link("etc/systemd/system/a.service").as_deref(),
        Some("/dev/null")
    );
    assert_eq!(units.state("a.service"), State::Masked);
    let error = units.enable("a.service").unwrap_err();
    assert_eq!(error.to_string(), "unit file `a.service` is masked");
    units.unmask("a.service").unwrap();
    assert_eq!(units.state("a.service"), State::Disabled);
    assert_eq!(units.state("s.service"), State::Static);
    assert_eq!(units.state("none.service"), State::NotFound);
    assert!(matches!(
        units.mask("own.service"),
        Err(Error::Exists { .. })
    ));
    assert!(matches!(
        units.enable("none.service"),
        Err(Error::Missing { script: false, .. })
    ));
}

#[test]
fn presets_follow_the_first_rule_that_matches() {
    let root = Root::new(&[
        (
            "usr/lib/systemd/system-preset/90-x.preset",
            "enable ssh*\ndisable *\n",
        ),
        (
            "usr/lib/systemd/system-preset/80-x.preset",
            "disable never.service\n",
        ),
        (
            "etc/systemd/system-preset/80-x.preset",
            "# empties the file below\n",
        ),
        (
            "lib/systemd/system/sshd.service",
            "[Install]\nWantedBy=x.target\n",
        ),
        (
            "lib/systemd/system/never.service",
            "[Install]\nWantedBy=x.target\n",
        ),
    ]);
    let units = root.units();
    units.preset("sshd.service").unwrap();
    assert_eq!(units.state("sshd.service"), State::Enabled);
    units.enable("never.service").unwrap();
    units.preset("never.service").unwrap();
    assert_eq!(units.state("never.service"), State::Disabled);
    for (pattern, name, expected) in [
        ("a?c", "abc", true),
        ("[a-c]*", "bz", true),
        ("[!a]*", "ab", false),
        ("*@*.service", "a@b.service", true),
        ("*.service", "a.socket", false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn the_default_target_is_a_link() {
    let root = Root::new(&[("usr/lib/systemd/system/multi-user.target", "[Unit]\n")]);
    let units = root.units();
    assert_eq!(units.default_target(), "graphical.target");
    units.set_default(&full_name("multi-user.target")).unwrap();
    assert_eq!(units.default_target(), "multi-user.target");
    for (name, full) in [
        ("ssh", "ssh.service"),
        ("a.b", "a.b.service"),
        ("x.timer", "x.timer"),
    ] {
        assert_eq!(full_name(name), full);
    }
}

//! Elements about the network.

use crate::scratch::Scratch;

#[test]
pub fn links_that_switch_stable_names_off_are_removed() {
    let Some(scratch) = Scratch::new(&["stable-interface-names"]) else {
        return;
    };
    let rules = scratch.root().join("etc/udev/rules.d");
    std::fs::create_dir_all(&rules).unwrap();
    let switch = rules.join("80-net-name-slot.rules");
    let own = rules.join("80-net-setup-link.rules");
    std::os::unix::fs::symlink("/dev/null", &switch).unwrap();
    std::fs::write(&own, "# an administrator's\n").unwrap();
    scratch.run("install.d/02-stable-interface-names");
    assert!(std::fs::symlink_metadata(&switch).is_err());
    assert!(own.exists());
    // A second run has nothing to do.
    scratch.run("install.d/02-stable-interface-names");
}

//! Programs that hooks call and that a build without privileges answers itself.

use std::process::Command;

use kiln::build::event::Event;

use crate::common::tool;
use crate::common::toy::Toy;

#[test]
fn a_filesystem_that_a_hook_leaves_on_tmp_is_that_of_hooks_inside() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "50-tmp",
        "mount -t tmpfs tmpfs \"$TARGET_ROOT/tmp\"",
    );
    toy.hook(
        "install",
        "50-look",
        "echo \"tmp is $(stat -f -c %T /tmp)\"",
    );
    let lines = toy.build("-t tar").success().lines();
    assert!(lines.contains(&"tmp is tmpfs".to_owned()), "{lines:?}");
}

#[test]
fn mounts_in_the_root_work_and_loop_devices_are_refused() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "50-mounts",
        r#"
cd "$TARGET_ROOT"
mount -t proc none proc
sudo mount -o ro -t sysfs none sys
sudo mount --bind /dev dev
[ -e proc/self/status ] && [ -d sys/class ] && [ -c dev/null ] && echo "api mounted"
sudo umount dev
umount sys
sudo umount "$TARGET_ROOT/proc"
mkdir -p mnt
mount -t tmpfs none mnt && touch mnt/x && umount mnt && [ ! -e mnt/x ] && echo "tmpfs mounted"
umount mnt || echo "status $?"
truncate -s 1M disk.raw
for command in 'losetup -f' 'sudo kpartx -asv disk.raw' 'mount -o loop disk.raw mnt' 'sudo losetup -a'; do
    $command && echo "said yes: $command" || echo "said no: $command"
done
sudo modprobe nbd && sudo sysctl -w kernel.panic=1 && sudo udevadm settle && echo "skipped outside"
rm disk.raw
"#,
    );
    toy.hook(
        "install",
        "50-services",
        r#"
systemctl restart ssh.service && service ssh stop && start-stop-daemon --start --exec /x && echo "skipped inside"
mkdir -p lib/systemd/system
printf '[Install]\nWantedBy=multi-user.target\n' >/lib/systemd/system/a.service
systemctl enable a && readlink /etc/systemd/system/multi-user.target.wants/a.service
echo "state $(systemctl is-enabled a)"
systemctl mask a.service && echo "state $(systemctl is-enabled a || true)"
hostnamectl set-hostname toy && echo "name $(cat /etc/hostname)"
mount -t proc none /proc && umount /proc && sudo umount -lf /proc && [ -e /proc/self/status ] && echo "proc stays"
mkdir -p /etc /mnt/on && echo 'other:x:12:12::/home/other:/bin/sh' >>/etc/passwd
mount -t tmpfs none /mnt/on && touch /mnt/on/x && umount /mnt/on && [ ! -e /mnt/on/x ] && echo "own mounts go"
echo "homes $(sudo -u other sh -c 'echo $HOME') $(sudo -E -u other sh -c 'echo $HOME') $(sudo -D /etc sh -c 'echo $PWD')"
"#,
    );
    let built = toy.build("-t tar").success();
    let lines = built.lines();
    for line in [
        "api mounted",
        "tmpfs mounted",
        "status 32",
        "said no: losetup -f",
        "said no: sudo kpartx -asv disk.raw",
        "said no: mount -o loop disk.raw mnt",
        "said yes: sudo losetup -a",
        "skipped outside",
        "skipped inside",
        "/usr/lib/systemd/system/a.service",
        "state enabled",
        "state masked",
        "name toy",
        "proc stays",
        "own mounts go",
        "homes /home/other /root /etc",
    ] {
        assert!(
            lines.iter().any(|said| said == line),
            "{line}:\n{}",
            lines.join("\n")
        );
    }
    let hints = lines.iter().filter(|line| line.contains("no loop devices"));
    assert_eq!(hints.count(), 3, "{}", lines.join("\n"));
    toy.assert_swept();
}

#[test]
fn a_hook_that_copies_a_program_copies_the_real_one() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "50-outside",
        "mkdir -p \"$TARGET_ROOT/opt\"; cp -L \"$(type -P mount)\" \"$TARGET_ROOT/opt/mount\"",
    );
    toy.hook(
        "install",
        "50-inside",
        "cp -L \"$(type -P start-stop-daemon)\" /opt/start-stop-daemon; chmod 711 /opt/start-stop-daemon
         ln /opt/start-stop-daemon /opt/another
         mkdir -p /usr/local/bin; cp -L \"$(type -P pkg-map)\" /usr/local/bin",
    );
    let built = toy.build("-t tar").success();
    let told = built.events.iter().any(|event| {
        matches!(event, Event::Info { text } if text.contains("put the real program in place")
            && text.contains("start-stop-daemon"))
    });
    assert!(told, "{:?}", built.events);
    let unpacked = toy.world.work().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let status = Command::new("tar")
        .arg("-xf")
        .arg(toy.output("tar"))
        .arg("-C")
        .arg(&unpacked)
        .args(["--no-same-owner", "./opt", "./usr/local/bin"])
        .status()
        .unwrap();
    assert!(status.success());
    // No system has this one: DIB's elements bring it for the build.
    let left = std::fs::read_dir(unpacked.join("usr/local/bin")).unwrap();
    assert_eq!(left.count(), 0);
    for (copy, program) in [
        ("mount", "mount"),
        ("start-stop-daemon", "start-stop-daemon"),
        ("another", "start-stop-daemon"),
    ] {
        let real = std::fs::read(tool(program).expect("every Debian has it")).unwrap();
        let copied = std::fs::read(unpacked.join("opt").join(copy)).unwrap();
        assert!(copied == real, "{copy} is not the host's {program}");
    }
}

/// What hooks call inside, with the status that it has in a build.
const CALLS: &str = "\
0 sudo -E -n -H -u root -- true
0 sudo VARIABLE=1 true
1 sudo -u nowhere true
0 mount -t proc none /proc
0 mount --bind /etc /mnt
0 umount /mnt
0 mount -t tmpfs none /mnt
0 umount -l /mnt
32 umount /mnt
32 mount -o loop /etc/passwd /mnt
1 losetup -f --show /etc/passwd
1 kpartx -asv /etc/passwd
1 dmsetup create x
0 modprobe nbd max_part=16
0 sysctl -w kernel.panic=1
0 sysctl -p /etc/sysctl.conf
0 systemctl daemon-reload
0 systemctl start a
0 systemctl stop a
3 systemctl is-active a
0 systemctl enable a
0 systemctl is-enabled a
0 systemctl disable a
1 systemctl is-enabled a
0 systemctl mask a
0 systemctl unmask a
1 systemctl enable nowhere
0 service a restart
3 service a status
0 udevadm trigger
0 udevadm settle --timeout=5
0 hostnamectl set-hostname toy
0 start-stop-daemon --start --exec /bin/a
0 start-stop-daemon --stop --name a
0 grub-probe --target=device /
1 grub-install --target=i386-pc /dev/image0
127 update-grub
";

#[test]
fn every_program_of_the_build_has_its_status_and_none_is_in_the_image() {
    let toy = Toy::basic();
    toy.file(
        "toy/static/a.service",
        "[Install]\nWantedBy=multi-user.target\n",
    );
    let calls = format!(
        "count=0; mkdir -p /mnt /usr/lib/systemd/system
         cp \"${{0%/*}}/../static/a.service\" /usr/lib/systemd/system
         while read -r expected call; do
             status=0
             output=$($call 2>&1 </dev/null) || status=$?
             [ $status = $expected ] || echo \"status $status of $call: $output\"
             count=$((count + 1))
         done <<'END'\n{CALLS}END\necho \"calls: $count\"\n"
    );
    for phase in ["install", "finalise"] {
        toy.hook(phase, "50-calls", &calls);
    }
    let built = toy.build("-t tar").success();
    let wrong: Vec<String> = built
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("status "))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let count = CALLS.lines().count().to_string();
    assert_eq!(built.lines_after("calls: "), [count.clone(), count]);
    let listing = crate::common::listing::listing_of(&toy.output("tar"));
    // These the root has of its own.
    let own = ["./usr/bin/mount", "./usr/bin/umount", "./usr/bin/chroot"];
    for path in listing.keys().filter(|path| !own.contains(&path.as_str())) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_helper = kiln::helpers::HELPERS
            .iter()
            .any(|helper| helper.name == name);
        assert!(!is_helper, "{path}");
        assert!(
            !name.contains("policy-rc.d") && !path.contains("in_target"),
            "{path}"
        );
    }
    assert!(listing.contains_key("./etc/hostname"));
}

//! Programs that hooks call and that a build without privileges answers itself.

use std::process::Command;

use kiln::build::event::Event;

use crate::common::tool;
use crate::common::toy::Toy;

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

//! `kiln push` against a Keystone and a Glance on loopback.

mod common;
#[path = "push/cloud.rs"]
mod service;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::image::{missing, run};
use common::{Outcome, Run as _, World};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use service::{Cloud, Fault, hex};
use sha2::{Digest as _, Sha512};

/// A world that knows a cloud.
fn world(cloud: &Cloud) -> World {
    let mut world = World::new();
    let clouds = format!(
        "clouds:\n  test:\n    region_name: north\n    auth:\n      auth_url: {}/identity\n      \
         username: ann\n      project_name: images\n",
        cloud.url
    );
    world.write("clouds.yaml", &clouds);
    world.write("secure.yaml", "clouds: {test: {auth: {password: right}}}");
    // The services are on this host.
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        world.set(name, "");
    }
    world
}

fn push(world: &World, line: &str) -> Outcome {
    world.kiln().words(&format!("push --pause 1 {line}"))
}

/// A raw image with a system that says what it is, in 24 MiB.
fn image(world: &World) -> Vec<u8> {
    world.write(
        "tree/etc/os-release",
        "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian 13\"\n",
    );
    // The head of an ELF program for aarch64 is all that tells its processor.
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend_from_slice(&183u16.to_le_bytes());
    let path = world.write("tree/usr/bin/dash", "");
    fs::write(path, elf).expect("written");
    world.write("tree/usr/sbin/qemu-ga", "agent");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, world.work().join("tree").join(name)).expect("linked");
    };
    link("usr/bin", "bin");
    link("dash", "usr/bin/sh");
    run(world, "mke2fs", "-q -F -t ext4 -d tree image.raw 24M").success();
    fs::read(world.work().join("image.raw")).expect("there")
}

macro_rules! needs_mke2fs {
    () => {
        if let Some(tool) = missing(&["mke2fs"]) {
            skip!("`{tool}` is not installed");
        }
    };
}

#[test]
fn an_image_arrives_with_what_it_says_of_itself() {
    needs_mke2fs!();
    let cloud = Cloud::start();
    let world = world(&cloud);
    let bytes = image(&world);
    let line = "'glance:a name & more' image.raw --visibility private --tag one --tag two \
                -p hw_disk_bus=virtio -p os_distro=mine -p os_type= --min-ram 512 --protected";
    let printed = push(&world, line).success();
    let id = "00000000-0000-4000-8000-000000000001";
    assert_eq!(
        printed,
        format!("a name & more: {id}, raw, 24.0 MiB, active\n")
    );
    let stored = &cloud.images()[0];
    assert_eq!(stored.length, bytes.len());
    assert_eq!(stored.bytes_sha512, hex(&Sha512::digest(&bytes)));
    let record = &stored.record;
    for (key, value) in [
        ("name", json!("a name & more")),
        ("disk_format", json!("raw")),
        ("container_format", json!("bare")),
        ("visibility", json!("private")),
        ("tags", json!(["one", "two"])),
        ("min_disk", json!(1)),
        ("min_ram", json!(512)),
        ("protected", json!(true)),
        ("os_distro", json!("mine")),
        ("os_version", json!("13")),
        ("os_type", Value::Null),
        ("architecture", json!("aarch64")),
        ("hw_qemu_guest_agent", json!("yes")),
        ("hw_disk_bus", json!("virtio")),
        ("hw_firmware_type", Value::Null),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
    let sign_in = &cloud.sign_ins()[0];
    assert_eq!(
        sign_in["auth"]["scope"]["project"],
        json!({"name": "images", "domain": {"id": "default"}})
    );
    assert_eq!(
        cloud.requests(),
        [
            "POST /identity/v3/auth/tokens".to_owned(),
            format!(
                "GET /image/v2/images?sort=created_at:desc&name=a%20name%20%26%20more&owner={}",
                service::PROJECT
            ),
            "POST /image/v2/images".to_owned(),
            format!("PUT /image/v2/images/{id}/file"),
            format!("GET /image/v2/images/{id}"),
        ]
    );
}

#[test]
fn uefi_disks_and_other_formats_are_recognised() {
    if let Some(tool) = missing(&["mke2fs", "mkfs.fat", "mcopy", "sfdisk"]) {
        skip!("`{tool}` is not installed");
    }
    let cloud = Cloud::start();
    let world = world(&cloud);
    let root = image(&world);
    let esp = world.work().join("esp.img");
    fs::File::create(&esp)
        .and_then(|file| file.set_len(4 << 20))
        .expect("made");
    run(&world, "mkfs.fat", "esp.img").success();
    world.write("BOOTAA64.EFI", "boot me");
    run(&world, "mmd", "-i esp.img ::/EFI ::/EFI/BOOT").success();
    run(&world, "mcopy", "-i esp.img BOOTAA64.EFI ::/EFI/BOOT").success();
    let disk = fs::File::create(world.work().join("disk.raw")).expect("created");
    disk.set_len(1025 << 20).expect("sized");
    let script = world.write(
        "script",
        "label: gpt\nstart=2048,size=4M,type=U\nsize=24M\n",
    );
    let mut sfdisk = world.command(common::tool("sfdisk").expect("installed"));
    sfdisk.args(["-q", "disk.raw"]);
    sfdisk.stdin(fs::File::open(script).expect("there"));
    assert_eq!(sfdisk.run().code(), 0);
    disk.write_all_at(&fs::read(esp).expect("there"), 1 << 20)
        .expect("written");
    disk.write_all_at(&root, 5 << 20).expect("written");
    world.kiln().words("convert disk.raw disk.qcow2").success();
    world.kiln().words("convert disk.raw disk.vmdk").success();

    let line = "push glance:{stem}.{format} disk.qcow2 disk.vmdk --plan --json";
    let plan = world.kiln().words(line).success();
    assert_eq!(cloud.requests(), Vec::<String>::new());
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["cloud"], "test");
    for (at, format) in ["qcow2", "vmdk"].into_iter().enumerate() {
        let record = &plan["images"][at]["record"];
        assert_eq!(record["name"], format!("disk.{format}"));
        assert_eq!(record["disk_format"], format);
        assert_eq!(record["hw_firmware_type"], "uefi");
        assert_eq!(record["hw_machine_type"], Value::Null);
        assert_eq!(record["os_distro"], "debian");
        assert_eq!(record["min_disk"], 2);
    }
    let text = world
        .kiln()
        .words("push glance:x disk.qcow2 --plan")
        .success();
    assert!(text.contains("\n  hw_firmware_type: uefi\n"), "{text}");

    let done = push(&world, "glance: disk.qcow2 disk.vmdk --json");
    assert_eq!(done.code(), 2);
    assert_eq!(
        done.stderr,
        "error: two images would be named `disk`\nhint: put `{stem}` or `{format}` into the name\n"
    );
    let done = push(&world, "glance:{format} disk.qcow2 disk.vmdk --json").success();
    let done: Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!(done[0]["name"], "qcow2");
    assert_eq!(done[1]["disk_format"], "vmdk");
    let qcow2 = fs::read(world.work().join("disk.qcow2")).expect("there");
    assert_eq!(done[0]["sha512"], hex(&Sha512::digest(&qcow2)));
}

#[test]
fn every_kind_of_credentials_signs_in() {
    let cloud = Cloud::start();
    let url = format!("{}/identity/v3", cloud.url);
    for (variables, expected) in [
        (
            &[
                ("OS_USERNAME", "bob"),
                ("OS_PASSWORD", "right"),
                ("OS_PROJECT_ID", "p"),
            ][..],
            json!({"methods": ["password"], "password": {"user": {
                "name": "bob", "domain": {"id": "default"}, "password": "right"}}}),
        ),
        (
            &[("OS_TOKEN", "right")],
            json!({"methods": ["token"], "token": {"id": "right"}}),
        ),
        (
            &[
                ("OS_AUTH_TYPE", "v3applicationcredential"),
                ("OS_APPLICATION_CREDENTIAL_ID", "abc"),
                ("OS_APPLICATION_CREDENTIAL_SECRET", "right"),
            ],
            json!({"methods": ["application_credential"],
                "application_credential": {"id": "abc", "secret": "right"}}),
        ),
    ] {
        let mut world = World::new();
        world.set("http_proxy", "").set("OS_AUTH_URL", &url);
        for (name, value) in variables {
            world.set(name, value);
        }
        world.write("disk.raw", &"bytes".repeat(1000));
        push(&world, "glance:x disk.raw --existing add").success();
        let sign_in = &cloud.sign_ins()[0];
        assert_eq!(sign_in["auth"]["identity"], expected);
    }
    assert_eq!(cloud.images().len(), 3);
}

#[test]
fn refusals_are_explained_and_leave_no_record() {
    let cloud = Cloud::start();
    let mut world = world(&cloud);
    world.write("disk.raw", &"bytes".repeat(100_000));
    let file = "PUT /image/v2/images";
    for (faults, line, message, hint) in [
        (
            vec![Fault::Answer("POST /identity", 404, "")],
            "",
            "cannot sign in: keystone answered 404",
            "https://HOST:5000/v3",
        ),
        (
            vec![Fault::Answer(
                "POST /image/v2/images",
                403,
                r#"{"message": "You are not authorized to complete publicize_image action."}"#,
            )],
            "--visibility public",
            "cannot create the image: glance answered 403: You are not authorized to complete publicize_image action",
            "public images need an administrator",
        ),
        (
            vec![Fault::Answer("POST /image/v2/images", 409, "")],
            "--id 5b7c",
            "cannot create the image: glance answered 409",
            "its id is taken",
        ),
        (
            vec![Fault::Answer(
                file,
                413,
                "<html><body>Request Entity Too Large</body></html>",
            )],
            "",
            "cannot upload the image: glance answered 413: Request Entity Too Large",
            "quota",
        ),
        (
            vec![Fault::Answer(file, 415, "")],
            "",
            "cannot upload the image: glance answered 415",
            "`kiln convert`",
        ),
        (
            vec![Fault::Answer(file, 503, "busy"); 4],
            "",
            "cannot upload the image: glance answered 503: busy",
            "try again later",
        ),
        (
            vec![Fault::Corrupt],
            "",
            "its digest is another",
            "the record was removed",
        ),
        (
            vec![Fault::State("killed")],
            "",
            "did not become active: it is killed",
            "the service's log says why",
        ),
        (
            vec![],
            "--os-region-name west",
            "the cloud's catalogue has no public image service in region `west`",
            "it has internal in north, public in north, public in south",
        ),
        (
            vec![],
            "--os-interface admin",
            "the cloud's catalogue has no admin image service in region `north`",
            "choose with `--os-region-name`",
        ),
    ] {
        let what = format!("{faults:?}");
        faults.into_iter().for_each(|fault| cloud.fault(fault));
        let outcome = push(&world, &format!("glance:x disk.raw {line}"));
        assert_eq!(outcome.code(), 1, "{what}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(message),
            "{what}: {}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains(hint), "{what}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{what}");
        assert_eq!(cloud.images().len(), 0, "{what}: a record is left");
    }
    // Cleaning up fails too: the id is named.
    cloud.fault(Fault::Corrupt);
    for _ in 0..4 {
        cloud.fault(Fault::Answer("DELETE", 500, ""));
    }
    let outcome = push(&world, "glance:x disk.raw");
    assert!(
        outcome
            .stderr
            .contains("`openstack image delete 00000000-0000"),
        "{}",
        outcome.stderr
    );
    world.set("OS_CLIENT_SECURE_FILE", "wrong.yaml");
    world.write("wrong.yaml", "clouds: {test: {auth: {password: hunter2}}}");
    let outcome = push(&world, "glance:x disk.raw");
    assert!(
        outcome.stderr.starts_with(
            "error: cannot sign in: keystone answered 401: The request you have made requires \
             authentication\nhint: check user, password, domain and project"
        ),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("hunter2"));
}

#[test]
fn a_broken_upload_starts_again_and_a_lost_answer_is_found_out() {
    let cloud = Cloud::start();
    let world = world(&cloud);
    world.write("disk.raw", &"bytes".repeat(2_000_000));
    cloud.fault(Fault::Break(3_000_000));
    cloud.fault(Fault::Break(100));
    let outcome = push(&world, "glance:x disk.raw");
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert_eq!(
        outcome
            .stderr
            .matches("trying again from the start")
            .count(),
        2,
        "{}",
        outcome.stderr
    );
    let puts = |cloud: &Cloud| {
        let requests = cloud.requests();
        let puts = requests.iter().filter(|line| line.starts_with("PUT"));
        puts.count()
    };
    assert_eq!(puts(&cloud), 3);
    assert_eq!(cloud.images()[0].length, 10_000_000);

    cloud.fault(Fault::LoseAnswer);
    push(&world, "glance:y disk.raw").success();
    assert_eq!(puts(&cloud), 1);

    // The token ends before the upload, and before the look at the result.
    cloud.fault(Fault::Expire("PUT"));
    cloud.fault(Fault::Expire("GET /image/v2/images/"));
    push(&world, "glance:z disk.raw").success();
    assert_eq!(cloud.images().len(), 3);

    cloud.fault(Fault::Break(1));
    cloud.fault(Fault::Break(1));
    cloud.fault(Fault::Break(1));
    cloud.fault(Fault::Break(1));
    let outcome = push(&world, "glance:w disk.raw");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("cannot upload the image at"),
        "{}",
        outcome.stderr
    );
    assert_eq!(cloud.images().len(), 3);
}

#[test]
fn images_of_the_same_name_are_dealt_with_as_asked() {
    let cloud = Cloud::start();
    let world = world(&cloud);
    world.write("new.raw", "new bytes, new bytes, new bytes");
    // The last digits of the ids, which are counted.
    let names = |cloud: &Cloud| -> Vec<u32> {
        let images = cloud.images();
        let ids = images.iter().map(|image| {
            let id = image.record["id"].as_str().expect("an id");
            let (_, number) = id.rsplit_once('-').expect("a UUID");
            number.parse().expect("a number")
        });
        ids.collect()
    };
    cloud.store("other", b"x", "raw", false);
    cloud.store("x", b"old", "raw", false);
    let outcome = push(&world, "glance:x new.raw");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome
            .stderr
            .contains("an image named `x` is there already"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("--existing replace"),
        "{}",
        outcome.stderr
    );
    assert_eq!(names(&cloud), [1, 2]);

    push(&world, "glance:x new.raw --existing keep").success();
    assert_eq!(names(&cloud), [1, 2, 3]);
    let text = push(&world, "glance:x new.raw --existing keep").success();
    assert!(text.ends_with("raw, 31 B, there already\n"), "{text}");
    assert_eq!(names(&cloud), [1, 2, 3]);
    let text = push(&world, "glance:x new.raw --existing replace").success();
    assert!(text.contains("there already, removed 0"), "{text}");
    assert_eq!(names(&cloud), [1, 3]);

    cloud.store("x", b"safe", "raw", true);
    world.write("new.raw", "newer bytes");
    let outcome = push(&world, "glance:x new.raw --existing replace");
    assert!(
        outcome.stderr.contains("stays: it is protected"),
        "{}",
        outcome.stderr
    );
    assert_eq!(names(&cloud), [1, 4, 5]);

    // A failure leaves the old one alone.
    cloud.fault(Fault::Corrupt);
    world.write("new.raw", "newest bytes");
    assert_eq!(
        push(&world, "glance:x new.raw --existing replace").code(),
        1
    );
    assert_eq!(names(&cloud), [1, 4, 5]);

    for number in 0..3 {
        world.write("new.raw", &format!("bytes {number}"));
        push(&world, "glance:y new.raw --keep 2").success();
    }
    assert_eq!(names(&cloud), [1, 4, 5, 8, 9]);
}

#[test]
fn imports_go_through_the_staging_area_or_a_url() {
    let cloud = Cloud::start();
    let world = world(&cloud);
    world.write("disk.raw", &"bytes".repeat(1000));
    cloud.fault(Fault::Break(10));
    push(&world, "glance:x disk.raw --method glance-direct").success();
    let image = &cloud.images()[0];
    assert_eq!(image.record["imported"], json!({"name": "glance-direct"}));
    assert_eq!(image.length, 5000);
    let line = "glance:y disk.raw --method web-download --url https://images.example/disk.raw";
    push(&world, line).success();
    assert_eq!(
        cloud.images()[1].record["imported"],
        json!({"name": "web-download", "uri": "https://images.example/disk.raw"})
    );
    let outcome = push(&world, "glance:z disk.raw --method web-download");
    assert_eq!(outcome.code(), 2);
    assert!(outcome.stderr.contains("--url"), "{}", outcome.stderr);
}

#[test]
fn a_partition_image_brings_its_kernel_and_ramdisk_or_nothing() {
    let cloud = Cloud::start();
    let world = world(&cloud);
    world.write("disk.raw", &"bytes".repeat(1000));
    world.write("vmlinuz", "kernel");
    world.write("initrd", "ramdisk");
    let line = "glance:x disk.raw --kernel vmlinuz --ramdisk initrd";
    push(&world, line).success();
    let images = cloud.images();
    let field = |at: usize, key: &str| images[at].record[key].clone();
    for (at, name, format) in [(0, "x-kernel", "aki"), (1, "x-ramdisk", "ari")] {
        assert_eq!(field(at, "name"), name);
        assert_eq!(field(at, "disk_format"), format);
        assert_eq!(field(at, "container_format"), format);
    }
    assert_eq!(field(2, "kernel_id"), field(0, "id"));
    assert_eq!(field(2, "ramdisk_id"), field(1, "id"));
    cloud.fault(Fault::State("active"));
    cloud.fault(Fault::State("active"));
    cloud.fault(Fault::State("deleted"));
    let line = "glance:y disk.raw --kernel vmlinuz --ramdisk initrd";
    assert_eq!(push(&world, line).code(), 1);
    assert_eq!(cloud.images().len(), 3);
}

#[test]
fn an_interrupt_removes_the_record() {
    let cloud = Cloud::start();
    let world = world(&cloud);
    let disk = fs::File::create(world.work().join("disk.raw")).expect("created");
    disk.set_len(64 << 20).expect("sized");
    cloud.fault(Fault::Stall);
    let mut child = world
        .kiln()
        .args(["push", "--pause", "1", "glance:x", "disk.raw"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let start = Instant::now();
    while !cloud.requests().iter().any(|line| line.starts_with("PUT")) {
        assert!(start.elapsed() < Duration::from_secs(60), "it uploads");
        std::thread::sleep(Duration::from_millis(20));
    }
    // By then every buffer on the way is full, and the program waits in the kernel.
    std::thread::sleep(Duration::from_millis(500));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("small"));
    kill(pid, Signal::SIGINT).expect("sent");
    let status = child.wait().expect("it ends");
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut stderr)
        .expect("text");
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert_eq!(stderr, "error: interrupted\n");
    assert_eq!(cloud.images().len(), 0);
}

#[test]
fn memory_does_not_grow_with_the_image() {
    let cloud = Cloud::start();
    let world = world(&cloud);
    let disk = fs::File::create(world.work().join("disk.raw")).expect("created");
    disk.set_len(128 << 20).expect("sized");
    push(&world, "glance:x disk.raw").success();
    assert_eq!(cloud.images()[0].length, 128 << 20);
    // The largest of all children of this process, in KiB.
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("known");
    assert!(usage.max_rss() < 96 << 10, "{} KiB", usage.max_rss());
}

#[test]
fn what_is_no_image_is_not_sent() {
    needs_mke2fs!();
    let cloud = Cloud::start();
    let world = world(&cloud);
    world.write("empty.raw", "");
    fs::write(world.work().join("disk.raw.gz"), b"\x1f\x8b\x08rest").expect("written");
    fs::write(
        world.work().join("a.tar"),
        [vec![0; 257], b"ustar".to_vec()].concat(),
    )
    .expect("written");
    image(&world);
    let pipe = world.work().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    for (file, message) in [
        ("empty.raw", "is empty"),
        ("pipe", "is a named pipe, and not a file"),
        ("/dev/zero", "is a device, and not a file"),
        (". ", "is a directory, and not a file"),
        (
            "image.raw --os-cacert pipe",
            "it is a named pipe, and not a regular file",
        ),
        (
            "disk.raw.gz",
            "is compressed by gzip, which no image service unpacks",
        ),
        ("a.tar", "is a tar archive, not a disk"),
        ("none.raw", "cannot read"),
    ] {
        let outcome = push(&world, &format!("glance:x {file}"));
        assert_eq!(outcome.code(), 1, "{file}");
        assert!(
            outcome.stderr.contains(message),
            "{file}: {}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.contains("\nhint: "),
            "{file}: {}",
            outcome.stderr
        );
    }
    let mut endless = world.kiln();
    endless.env("OS_CLIENT_CONFIG_FILE", "/dev/zero");
    let outcome = endless.words("push glance:x image.raw --os-cloud x");
    let said = "cannot use `/dev/zero`: it is a device, and not a regular file";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    let outcome = push(&world, "swift:x empty.raw");
    assert_eq!(
        outcome.stderr,
        "error: `swift:x` names no service\n\
         hint: write `glance:NAME` for OpenStack's image service; others are not supported\n"
    );
    assert_eq!(cloud.requests(), Vec::<String>::new());
}

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    if let Some(tool) = missing(&["openssl"]) {
        skip!("`{tool}` is not installed");
    }
    let mut world = World::new();
    world.set("https_proxy", "");
    world.write("disk.raw", "bytes");
    let line = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 \
                -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
                -addext basicConstraints=critical,CA:FALSE";
    run(&world, "openssl", line);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let mut server = world
        .command(common::tool("openssl").expect("installed"))
        .args([
            "s_server", "-quiet", "-rev", "-key", "key.pem", "-cert", "cert.pem",
        ])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let start = Instant::now();
    // One that nobody listens on may be connected with itself.
    let listens = || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        Ok::<_, std::io::Error>(stream.local_addr()? != stream.peer_addr()?)
    };
    while !listens().unwrap_or(false) {
        assert!(start.elapsed() < Duration::from_secs(30), "it listens");
        std::thread::sleep(Duration::from_millis(20));
    }
    world.set("OS_AUTH_URL", format!("https://127.0.0.1:{port}"));
    world.set("OS_TOKEN", "t");
    let refused = push(&world, "glance:x disk.raw");
    let trusted = push(&world, "glance:x disk.raw --os-cacert cert.pem");
    let unchecked = push(&world, "glance:x disk.raw --insecure");
    server.kill().expect("it ran");
    server.wait().expect("it ended");
    assert!(refused.stderr.contains("--os-cacert"), "{}", refused.stderr);
    // The server only turns lines round; what counts is that it is spoken to.
    for outcome in [trusted, unchecked] {
        assert_eq!(outcome.code(), 1);
        assert!(
            !outcome.stderr.contains("--os-cacert"),
            "{}",
            outcome.stderr
        );
    }
}

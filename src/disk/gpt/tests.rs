use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use uuid::uuid;

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DISK: Uuid = uuid!("b8c0e9a2-1d2e-4f7c-9c57-00112233aabb");

/// A file of `length` bytes with these pieces.
pub(crate) fn write(length: u64, pieces: &[(u64, Vec<u8>)]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(length).unwrap();
    for (offset, bytes) in pieces {
        file.seek(SeekFrom::Start(*offset)).unwrap();
        file.write_all(bytes).unwrap();
    }
    file
}

/// A command that is looked for in the directories of system programs too.
pub(crate) fn tool(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Output of a system program, or `None` if it is not there.
fn run(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let output = tool(program).args(arguments).arg(file).output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(text)
        }
        Err(error) => {
            println!("SKIP: no {program}: {error}");
            None
        }
    }
}

fn request(name: &str, size: Size, code: &str) -> Request {
    let TypeCode::Known(type_guid) = parse_type(name, code).unwrap() else {
        panic!("{code}")
    };
    let guid = Uuid::new_v5(&DISK, name.as_bytes());
    Request {
        name: name.to_owned(),
        size,
        type_guid,
        guid,
        attributes: 0,
    }
}

fn mib(mib: u64) -> Size {
    Size::Bytes(mib * MIB)
}

const ALL: Size = Size::Percent(100.0);

fn gpt_efi() -> Vec<Request> {
    vec![
        request("ESP", mib(8), "EF00"),
        request("BSP", mib(8), "EF02"),
        request("Root Part", ALL, "8300"),
    ]
}

fn rows(disk: u64, sector_size: u32, requests: &[Request]) -> Vec<(u64, u64)> {
    let gpt = place(disk, sector_size, requests).unwrap();
    gpt.partitions
        .iter()
        .map(|partition| (partition.start, partition.sectors))
        .collect()
}

#[test]
fn partitions_lie_where_upstream_puts_them() {
    let efi = |esp| {
        vec![
            request("ESP", mib(esp), "EF00"),
            request("BSP", mib(8), "EF02"),
            request("root", ALL, "8300"),
        ]
    };
    assert_eq!(
        rows(GIB, 512, &gpt_efi()),
        [(2048, 16384), (18432, 16384), (34816, 2_060_288)]
    );
    assert_eq!(
        rows(GIB, 512, &efi(550)),
        [(2048, 1_126_400), (1_128_448, 16384), (1_144_832, 950_272)]
    );
    assert_eq!(
        rows(
            GIB,
            512,
            &[request("BSP", mib(8), "EF02"), request("root", ALL, "8300")]
        ),
        [(2048, 16384), (18432, 2_076_672)]
    );
    assert_eq!(
        rows(GIB, 4096, &efi(500)),
        [(256, 128_000), (128_256, 2048), (130_304, 131_584)]
    );
    let lvm = vec![
        request("ESP", mib(550), "EF00"),
        request("BSP", mib(8), "EF02"),
        request("root", Size::Bytes(40_000_000_000), "8300"),
    ];
    let table = rows(40 * GIB, 512, &lvm);
    assert_eq!(table.map_mib(), [550, 8, 38146]);
    let error = place(GIB, 512, &lvm).unwrap_err().to_string();
    assert!(
        error.contains(
            "the requested size of the image is smaller than the block device configuration"
        ),
        "{error}"
    );
}

trait Mib {
    fn map_mib(&self) -> Vec<u64>;
}

impl Mib for Vec<(u64, u64)> {
    fn map_mib(&self) -> Vec<u64> {
        self.iter()
            .map(|(_, sectors)| sectors * 512 / MIB)
            .collect()
    }
}

#[test]
fn types_are_read_as_sgdisk_reads_them() {
    let known = |code: &str| match parse_type("p", code) {
        Ok(TypeCode::Known(guid)) => Some(guid),
        _ => None,
    };
    assert_eq!(known("EF00"), Some(types::ESP));
    assert_eq!(known("ef00"), Some(types::ESP));
    assert_eq!(known("0xEF00"), Some(types::ESP));
    assert_eq!(
        known("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        Some(types::ESP)
    );
    assert_eq!(
        known("0x4100"),
        Some(uuid!("9E1A2D38-C612-4316-AA26-8B49521E5A8B"))
    );
    for unknown in ["83", "ffff", "8300000", "EF0G1"] {
        let read = parse_type("p", unknown);
        assert!(
            !matches!(read, Ok(TypeCode::Known(_))),
            "{unknown}: {read:?}"
        );
    }
    for bad in [
        "0000",
        "",
        "linux",
        "0XEF00",
        "0x",
        "+EF0",
        "C12A7328F81F11D2BA4B00A0C93EC93B-",
    ] {
        let error = parse_type("p", bad).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{bad}` of partition `p` is no gpt type")),
            "{error}"
        );
    }
}

#[test]
fn less_than_a_mebibyte_becomes_one() {
    let requests = [
        request("a", Size::Bytes(1), "8300"),
        request("b", ALL, "8300"),
    ];
    assert_eq!(
        rows(16 * MIB, 512, &requests),
        [(2048, 2048), (4096, 13 * 2048)]
    );
}

#[test]
fn what_a_gpt_cannot_hold_says_why() {
    let message = |disk, requests: &[Request]| place(disk, 512, requests).unwrap_err().to_string();
    let empty = request("a", Size::Bytes(0), "8300");
    assert_eq!(
        message(GIB, &[empty]),
        "partition `a` has a size of 0 bytes: give it at least 1MiB"
    );
    let error = message(GIB, &[request(&"n".repeat(37), ALL, "8300")]);
    assert!(
        error.ends_with("is too long for a gpt: 37 > 36 UTF-16 units"),
        "{error}"
    );
    let error = message(GIB, &vec![request("n", mib(1), "8300"); 129]);
    assert_eq!(error, "a gpt holds 128 partitions, and `n` is one more");
    let error = message(MIB, &[]);
    assert_eq!(
        error,
        "a disk of 1048576 bytes with sectors of 512 cannot hold a gpt"
    );
    assert!(place(GIB + 512, 4096, &[]).is_err());
    assert!(place(GIB, 1024, &[]).is_err());
}

#[test]
fn sgdisk_finds_no_problem_and_writes_the_same_bytes() {
    let disk = 64 * MIB;
    let gpt = place(disk, 512, &gpt_efi()).unwrap();
    let file = write(disk, &gpt.render(DISK));
    let Some(text) = run("sgdisk", &["-v"], file.path()) else {
        return;
    };
    assert!(text.contains("No problems found"), "{text}");

    let theirs = write(disk, &[]);
    let mut arguments = vec!["-a".to_owned(), "2048".to_owned()];
    let sizes = ["+8M", "+8M", "+46M"];
    for (at, (request, size)) in gpt.partitions.iter().zip(sizes).enumerate() {
        let number = at + 1;
        arguments.extend(["-n".to_owned(), format!("{number}:0:{size}")]);
        arguments.extend(["-t".to_owned(), format!("{number}:{}", request.type_guid)]);
        arguments.extend(["-c".to_owned(), format!("{number}:{}", request.name)]);
        arguments.extend(["-u".to_owned(), format!("{number}:{}", request.guid)]);
    }
    arguments.extend(["-U".to_owned(), DISK.to_string()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run("sgdisk", &arguments, theirs.path());
    let (ours, theirs) = (std::fs::read(file.path()), std::fs::read(theirs.path()));
    assert!(ours.unwrap() == theirs.unwrap());
}

#[test]
fn sfdisk_reads_what_is_written() {
    let gpt = place(GIB, 512, &gpt_efi()).unwrap();
    let file = write(GIB, &gpt.render(DISK));
    let Some(text) = run("sfdisk", &["-J"], file.path()) else {
        return;
    };
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let table = &json["partitiontable"];
    assert_eq!(table["label"], "gpt");
    assert_eq!(table["id"], DISK.to_string().to_uppercase());
    assert_eq!(table["firstlba"], gpt.first_usable());
    assert_eq!(table["lastlba"], gpt.last_usable());
    assert_eq!(table["partitions"].as_array().unwrap().len(), 3);
    for (theirs, ours) in table["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&gpt.partitions)
    {
        assert_eq!(theirs["start"], ours.start);
        assert_eq!(theirs["size"], ours.sectors);
        assert_eq!(theirs["type"], ours.type_guid.to_string().to_uppercase());
        assert_eq!(theirs["uuid"], ours.guid.to_string().to_uppercase());
        assert_eq!(theirs["name"], ours.name);
    }
    let verified = run("sfdisk", &["--verify"], file.path()).unwrap_or_default();
    assert!(verified.contains("No errors detected"), "{verified}");
}

#[test]
fn partx_reads_sectors_of_4096_bytes() {
    let gpt = place(GIB, 4096, &gpt_efi()).unwrap();
    assert_eq!((gpt.first_usable(), gpt.last_usable()), (6, 262_138));
    let file = write(GIB, &gpt.render(DISK));
    let columns = "START,SECTORS,UUID,TYPE";
    let arguments = ["--sector-size", "4096", "-g", "-r", "-o", columns];
    let Some(text) = run("partx", &arguments, file.path()) else {
        return;
    };
    let expected: Vec<String> = gpt
        .partitions
        .iter()
        // partx counts in 512 bytes, whatever the disk's sectors are.
        .map(|p| {
            format!(
                "{} {} {} {}",
                p.start * 8,
                p.sectors * 8,
                p.guid,
                p.type_guid
            )
        })
        .collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

proptest! {
    #[test]
    fn layouts_never_overlap_and_stay_usable(
        sectors in 1..3_000_000u64,
        four in any::<bool>(),
        sizes in prop::collection::vec(
            prop_oneof![
                (0..GIB).prop_map(Size::Bytes),
                (-10.0..150.0).prop_map(Size::Percent),
                any::<u64>().prop_map(Size::Bytes),
                Just(ALL),
            ],
            0..6,
        ),
    ) {
        let sector_size = if four { 4096 } else { 512 };
        let disk = sectors * u64::from(sector_size);
        let requests: Vec<Request> =
            sizes.iter().map(|&size| request("p", size, "8300")).collect();
        if let Ok(gpt) = place(disk, sector_size, &requests) {
            let mut next = gpt.first_usable();
            for partition in &gpt.partitions {
                prop_assert!(partition.start >= next);
                prop_assert!(partition.sectors > 0);
                next = partition.start + partition.sectors;
            }
            prop_assert!(next <= gpt.last_usable() + 1);
            let pieces = gpt.render(DISK);
            let (offset, bytes) = pieces.last().unwrap();
            prop_assert!(offset + bytes.len() as u64 <= disk);
        }
    }
}

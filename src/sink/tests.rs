use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::qcow2::{Compression, CompressionType, Options, Version};
use super::source::Memory;
use super::*;
use crate::tree::TreeBuilder;

/// Whether a host tool is there; says so where it is not.
pub(crate) fn have(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        println!("SKIP: `{tool}` is not installed");
    }
    found.is_ok()
}

/// Runs a tool and returns its standard output; panics with all of it on failure.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn empty_tree() -> Arc<Tree> {
    Arc::new(TreeBuilder::new().build().unwrap())
}

pub(crate) fn spec(format: Format, path: impl Into<PathBuf>) -> Spec {
    Spec {
        format,
        disk: 0,
        path: path.into(),
        checksums: Checksums::default(),
        existing: Existing::Replace,
        durable: false,
        seed: uuid::uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0002"),
    }
}

pub(crate) fn write(disk: &Memory, specs: &[Spec], threads: usize) -> Result<Vec<Written>, Error> {
    write_all(&[disk], &empty_tree(), specs, threads, &|_, _, _| {})
}

fn variants() -> Vec<Options> {
    let mut variants = Vec::new();
    for cluster_size in [512, 4096, 65536, 2 << 20] {
        for (version, compression_type) in [
            (Version::V2, CompressionType::Zlib),
            (Version::V3, CompressionType::Zlib),
            (Version::V3, CompressionType::Zstd),
        ] {
            for compression in [
                Compression::Level(None),
                Compression::Level(Some(6)),
                Compression::None,
            ] {
                variants.push(Options {
                    version,
                    cluster_size,
                    compression_type,
                    compression,
                    ..Options::default()
                });
            }
        }
    }
    variants
}

#[test]
fn every_qcow2_variant_is_clean_and_equals_the_raw_image() {
    if !have("qemu-img") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    // No multiple of a cluster of any size, nor (in the second) of a sector.
    for (length, seed) in [(9_300_480, 1), (5_000_001, 2), (0, 3), (1, 4)] {
        let disk = Memory::sample(length, seed);
        let raw = place.path().join("a.raw");
        let mut specs = vec![spec(Format::Raw, &raw)];
        for (at, options) in variants().into_iter().enumerate() {
            specs.push(spec(
                Format::Qcow2(options),
                place.path().join(format!("{at}.qcow2")),
            ));
        }
        let written = write(&disk, &specs, 3).unwrap();
        assert!(std::fs::read(&raw).unwrap() == disk.bytes());
        for (spec, written) in specs.iter().zip(written).skip(1) {
            let path = &spec.path;
            let what = format!("{length} {:?}", spec.format);
            let check = run(Command::new("qemu-img")
                .args(["check", "-f", "qcow2"])
                .arg(path));
            assert!(check.contains("No errors were found"), "{what}: {check}");
            assert!(!check.contains("leaked"), "{what}: {check}");
            if length > 0 {
                let mut compare = Command::new("qemu-img");
                compare
                    .args(["compare", "-f", "raw", "-F", "qcow2"])
                    .arg(&raw)
                    .arg(path);
                assert!(run(&mut compare).contains("identical"), "{what}");
            }
            let info = run(Command::new("qemu-img")
                .args(["info", "-f", "qcow2"])
                .arg(path));
            let Format::Qcow2(options) = spec.format else {
                unreachable!()
            };
            assert!(
                info.contains(&format!("cluster_size: {}", options.cluster_size)),
                "{info}"
            );
            let (compat, kind) = match (options.version, options.compression_type) {
                (Version::V2, _) => ("compat: 0.10", "compression type: zlib"),
                (_, CompressionType::Zlib) => ("compat: 1.1", "compression type: zlib"),
                (_, CompressionType::Zstd) => ("compat: 1.1", "compression type: zstd"),
            };
            assert!(info.contains(compat) && info.contains(kind), "{info}");
            assert_eq!(written.virtual_size, length);
            assert_eq!(written.file_size, std::fs::metadata(path).unwrap().len());
        }
    }
}

#[test]
fn the_number_of_threads_never_changes_a_byte() {
    let place = tempfile::tempdir().unwrap();
    let disk = Memory::sample(20_000_000, 5);
    let formats = [
        Format::Raw,
        Format::Qcow2(Options::default()),
        Format::Qcow2(Options {
            compression: Compression::None,
            ..Options::default()
        }),
        Format::Qcow2(Options {
            compression_type: CompressionType::Zstd,
            cluster_size: 4096,
            ..Options::default()
        }),
    ];
    let mut first: Option<Vec<Vec<u8>>> = None;
    for threads in [1, 2, 16] {
        let specs: Vec<_> = formats
            .iter()
            .enumerate()
            .map(|(at, &format)| spec(format, place.path().join(format!("{at}-{threads}"))))
            .collect();
        write(&disk, &specs, threads).unwrap();
        let files: Vec<_> = specs
            .iter()
            .map(|spec| std::fs::read(&spec.path).unwrap())
            .collect();
        match &first {
            None => first = Some(files),
            Some(first) => assert!(*first == files, "{threads} threads"),
        }
    }
    // Alone or in one pass with others makes no difference either.
    for (at, &format) in formats.iter().enumerate() {
        let alone = place.path().join("alone");
        write(&disk, &[spec(format, &alone)], 3).unwrap();
        assert!(
            first.as_ref().unwrap()[at] == std::fs::read(&alone).unwrap(),
            "{format:?}"
        );
    }
}

#[test]
fn a_large_sparse_disk_makes_a_small_file() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("large.qcow2");
    let length = 1 << 42;
    let pieces = vec![
        (0, vec![1; 10]),
        (1 << 40, vec![2; 100_000]),
        (length - 512, vec![3; 512]),
    ];
    let disk = Memory {
        length,
        pieces,
        broken_from: None,
    };
    let written = write(&disk, &[spec(Format::Qcow2(Options::default()), &path)], 2).unwrap();
    assert!(written[0].file_size < 1 << 20, "{written:?}");
    if have("qemu-img") {
        run(Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&path));
        let info = run(Command::new("qemu-img")
            .args(["info", "-f", "qcow2"])
            .arg(&path));
        assert!(info.contains("4 TiB"), "{info}");
    }
}

#[test]
fn checksum_files_are_those_of_the_checksum_tools() {
    let place = tempfile::tempdir().unwrap();
    let specs: Vec<_> = [Format::Raw, Format::Qcow2(Options::default()), Format::Tar]
        .into_iter()
        .map(|format| Spec {
            checksums: Checksums::ALL,
            durable: true,
            ..spec(format, place.path().join(format!("a.{}", format.name())))
        })
        .collect();
    let written = write(&Memory::sample(3_000_000, 6), &specs, 2).unwrap();
    for written in written {
        assert_eq!(written.checksum_files.len(), 2);
        for (file, tool) in written.checksum_files.iter().zip(["md5sum", "sha256sum"]) {
            if have(tool) {
                assert!(run(Command::new(tool).arg("-c").arg(file)).contains("OK"));
                let text = run(Command::new(tool).arg(&written.path));
                assert_eq!(text, std::fs::read_to_string(file).unwrap());
            }
        }
    }
}

#[test]
fn an_old_image_and_its_checksums_are_kept_under_another_name() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.raw");
    let one = Spec {
        checksums: Checksums::ALL,
        existing: Existing::Rename {
            stamp: "2026.01.02-03.04.05".to_owned(),
        },
        ..spec(Format::Raw, &path)
    };
    let first = write(&Memory::sample(10_000, 7), std::slice::from_ref(&one), 1).unwrap();
    assert_eq!(first[0].renamed, None);
    let old = std::fs::read(&path).unwrap();
    let old_sum = std::fs::read(place.path().join("a.raw.md5")).unwrap();
    let second = write(&Memory::sample(20_000, 8), std::slice::from_ref(&one), 1).unwrap();
    let kept = place.path().join("a-2026.01.02-03.04.05.raw");
    assert_eq!(second[0].renamed.as_deref(), Some(kept.as_path()));
    assert!(std::fs::read(&kept).unwrap() == old);
    // Each names the image that it is of.
    let named = |sum: &[u8], image: &Path| {
        let digest = String::from_utf8_lossy(sum);
        let digest = digest.split(' ').next().unwrap_or_default();
        format!("{digest}  {}\n", image.display()).into_bytes()
    };
    let kept_sum = std::fs::read(place.path().join("a-2026.01.02-03.04.05.raw.md5")).unwrap();
    assert_eq!(kept_sum, named(&old_sum, &kept));
    let new_sum = std::fs::read(place.path().join("a.raw.md5")).unwrap();
    assert_ne!(new_sum, old_sum);
    assert_eq!(new_sum, named(&new_sum, &path));
}

#[test]
fn a_disk_that_cannot_be_read_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a.raw"), "old").unwrap();
    let disk = Memory {
        broken_from: Some(2_000_000),
        ..Memory::sample(9_000_000, 9)
    };
    let specs = [
        spec(Format::Raw, place.path().join("a.raw")),
        spec(
            Format::Qcow2(Options::default()),
            place.path().join("a.qcow2"),
        ),
    ];
    let error = write(&disk, &specs, 4).unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "{error}");
    assert_eq!(names(place.path()), ["a.raw"]);
    assert_eq!(std::fs::read(place.path().join("a.raw")).unwrap(), b"old");
}

#[test]
fn requests_that_make_no_sense_are_refused_before_anything_is_written() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a");
    let twice = [spec(Format::Raw, &path), spec(Format::Tar, &path)];
    let error = write(&Memory::sample(10, 1), &twice, 1).unwrap_err();
    assert!(matches!(error, Error::Twice { .. }), "{error}");
    let error = write_all(&[], &empty_tree(), &twice[..1], 1, &|_, _, _| {}).unwrap_err();
    assert!(error.to_string().contains("needs a disk"), "{error}");
    let huge = Memory {
        length: 1 << 60,
        ..Memory::default()
    };
    let error = write(&huge, &[spec(Format::Qcow2(Options::default()), &path)], 1).unwrap_err();
    assert!(matches!(error, Error::DiskTooLarge { .. }), "{error}");
    assert!(names(place.path()).is_empty());
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Tells [`child`] what to do and where.
const CHILD: &str = "KILN_SINK_TEST_CHILD";

/// The program that other tests start, limit and kill; nothing by itself.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let path = PathBuf::from(path);
    let endless = path
        .extension()
        .is_some_and(|extension| extension == "endless");
    let disk = Memory::sample(30_000_000, 10);
    let slow = Slow(&disk, endless);
    let options = Options {
        compression: Compression::None,
        ..Options::default()
    };
    let specs = [
        spec(Format::Raw, path.with_extension("raw")),
        spec(Format::Qcow2(options), path.with_extension("qcow2")),
    ];
    let result = write_all(&[&slow], &empty_tree(), &specs, 2, &|_, done, _| {
        if done > 0 {
            println!("writing now");
        }
    });
    let error = result.unwrap_err();
    println!("failed: {error}");
    std::process::exit(7);
}

/// A disk whose second half never comes.
struct Slow<'a>(&'a Memory, bool);

impl ReadAt for Slow<'_> {
    fn length(&self) -> u64 {
        self.0.length()
    }
    fn data_ranges(&self) -> Vec<std::ops::Range<u64>> {
        self.0.data_ranges()
    }
    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(SlowReader(self.0, self.1))
    }
}

struct SlowReader<'a>(&'a Memory, bool);

impl Reader for SlowReader<'_> {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        if self.1 && offset > 10_000_000 {
            // Until the test kills it.
            std::thread::sleep(Duration::from_secs(3600));
        }
        self.0.read_at(offset, buffer)
    }
}

fn child_command(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "sink::tests::child", "--nocapture"])
        .env(CHILD, path);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mut command = child_command(&place.path().join("a.limited"));
    // SAFETY: setrlimit is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 1 << 20,
                rlim_max: 1 << 20,
            };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(
        text.contains("would be a larger file than is allowed here"),
        "{text}"
    );
    assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));
}

#[test]
fn a_full_filesystem_is_an_error_that_says_what_was_needed_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    // A mount namespace of its own, so that nothing is left mounted.
    let script = "mount -t tmpfs -o size=4m tmpfs \"$1\" || exit 99
        \"$2\" --exact sink::tests::child --nocapture; status=$?
        echo \"left: $(ls -A \"$1\")\"; exit $status";
    // SAFETY: geteuid touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let mut command = Command::new("unshare");
    command.args([if root { "-m" } else { "-rm" }, "sh", "-c", script, "sh"]);
    command
        .arg(place.path())
        .arg(std::env::current_exe().unwrap());
    let output = command
        .env(CHILD, place.path().join("a.full"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("running 1 test") {
        let why = String::from_utf8_lossy(&output.stderr);
        return println!("SKIP: a tmpfs cannot be mounted here: {why}");
    }
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("no space left for output"), "{text}");
    assert!(
        text.contains("MiB, and 4 MiB were free when writing began"),
        "{text}"
    );
    assert!(text.lines().any(|line| line == "left: "), "{text}");
}

#[test]
fn sigkill_leaves_nothing() {
    use std::io::BufRead as _;
    let place = tempfile::tempdir().unwrap();
    let mut child = child_command(&place.path().join("a.endless"))
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(
        output
            .lines()
            .any(|line| line.unwrap().contains("writing now"))
    );
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let left: Vec<_> = names(place.path())
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn progress_reaches_the_end_of_every_step() {
    let place = tempfile::tempdir().unwrap();
    let last = std::cell::RefCell::new(std::collections::BTreeMap::new());
    let specs = [
        spec(Format::Raw, place.path().join("a.raw")),
        spec(
            Format::Qcow2(Options::default()),
            place.path().join("a.qcow2"),
        ),
        Spec {
            checksums: Checksums::ALL,
            durable: true,
            ..spec(Format::Tar, place.path().join("a.tar"))
        },
    ];
    write_all(
        &[&Memory::sample(4_000_000, 11)],
        &empty_tree(),
        &specs,
        2,
        &|step, done, total| {
            last.borrow_mut().insert(step.to_owned(), (done, total));
        },
    )
    .unwrap();
    let last = last.into_inner();
    assert_eq!(
        last.keys().collect::<Vec<_>>(),
        ["syncing a.tar", "writing a.raw, a.qcow2", "writing a.tar"]
    );
    assert!(last.values().all(|(done, total)| done == total), "{last:?}");
}

/// Says where the filesystem is that [`clone_child`] works on.
const CLONE_CHILD: &str = "KILN_SINK_TEST_CLONE";

/// A disk with two files, one of them large, that are in `directory`.
fn disk_of_files(directory: &Path) -> crate::disk::Disk {
    std::fs::create_dir(directory).unwrap();
    let large: Vec<u8> = (0..1_000_003_u32).map(|at| (at % 253) as u8 + 1).collect();
    std::fs::write(directory.join("large"), large).unwrap();
    std::fs::write(directory.join("small"), [9; 5000]).unwrap();
    let tree = Arc::new(crate::tree::scan(directory, &Default::default()).unwrap());
    let options = crate::disk::fs::fat::Options {
        label: None,
        volume_id: 1,
        bytes_per_sector: 4096,
        fat_type: None,
    };
    let volume = crate::disk::fs::fat::plan(&tree, &options, 40 << 20).unwrap();
    let mut builder = crate::disk::Disk::builder(50 << 20, 512);
    builder.volume("esp", 1 << 20, volume);
    builder.build().unwrap()
}

fn disk_bytes(disk: &crate::disk::Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.length() as usize];
    disk.reader().read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_planned_disk_is_written_as_it_reads() {
    let place = tempfile::tempdir().unwrap();
    let disk = disk_of_files(&place.path().join("tree"));
    let specs = [
        spec(Format::Raw, place.path().join("a.raw")),
        spec(
            Format::Qcow2(Options::default()),
            place.path().join("a.qcow2"),
        ),
    ];
    let written = write_all(&[&disk], &empty_tree(), &specs, 2, &|_, _, _| {}).unwrap();
    assert!(std::fs::read(&written[0].path).unwrap() == disk_bytes(&disk));
    assert!(written[0].disk_size < 2 << 20, "{written:?}");
    if have("qemu-img") {
        let paths = [&written[0].path, &written[1].path];
        run(Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "qcow2"])
            .args(paths));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error_or_harmless() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    let disk = disk_of_files(&tree);
    let large = tree.join("large");
    let before = disk_bytes(&disk);
    let formats = [Format::Raw, Format::Qcow2(Options::default())];
    let attempt = |name: &str| {
        let specs = formats.map(|format| {
            spec(
                format,
                place.path().join(format!("{name}.{}", format.name())),
            )
        });
        let result = write_all(&[&disk], &empty_tree(), &specs, 3, &|_, _, _| {});
        if result.is_err() {
            assert_eq!(names(place.path()), ["grown.qcow2", "grown.raw", "tree"]);
        }
        result
    };
    // The image has what the file had when it was planned, and no byte more.
    let mut more = std::fs::OpenOptions::new()
        .append(true)
        .open(&large)
        .unwrap();
    std::io::Write::write_all(&mut more, &[7; 100_000]).unwrap();
    let written = attempt("grown").unwrap();
    assert!(std::fs::read(&written[0].path).unwrap() == before);
    let message = |error: &Error| {
        let chain = anyhow::Chain::new(error).map(ToString::to_string);
        chain.collect::<Vec<_>>().join(": ")
    };
    more.set_len(500_000).unwrap();
    let shrunk = message(&attempt("shrunk").unwrap_err());
    assert!(
        shrunk.contains("large` shrank from 1000003 to 500000 bytes"),
        "{shrunk}"
    );
    std::fs::remove_file(&large).unwrap();
    let vanished = message(&attempt("vanished").unwrap_err());
    assert!(
        vanished.contains("large`") && vanished.contains("No such file"),
        "{vanished}"
    );
}

/// The program that the next test starts on a filesystem that shares blocks.
#[test]
fn clone_child() {
    let Some(place) = std::env::var_os(CLONE_CHILD).map(PathBuf::from) else {
        return;
    };
    let disk = disk_of_files(&place.join("tree"));
    let output = Output::create(&place.join("probe"), 0).unwrap();
    let cloned = raw::Raw::create(&disk, &output).unwrap();
    let cloned = pass::Writer::complete(&cloned).to_vec();
    assert_eq!(cloned.len(), 1, "{cloned:?}");
    assert_eq!(cloned[0].end - cloned[0].start, 1_000_003 / 4096 * 4096);
    drop(output);
    // Alone, where nothing cloned is read, and with another output, where it is.
    let specs = [
        spec(Format::Raw, place.join("a.raw")),
        spec(Format::Qcow2(Options::default()), place.join("a.qcow2")),
    ];
    for specs in [&specs[..1], &specs[..]] {
        write_all(&[&disk], &empty_tree(), specs, 2, &|_, _, _| {}).unwrap();
        assert!(std::fs::read(place.join("a.raw")).unwrap() == disk_bytes(&disk));
    }
    println!("cloned and equal");
}

#[test]
fn file_data_is_shared_where_the_filesystem_can() {
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(400 << 20)
        .unwrap();
    let mounted = place.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    // A mount namespace of its own, so that nothing is left mounted.
    let script = "PATH=$PATH:/usr/sbin:/sbin; { mkfs.xfs -q -m reflink=1 \"$1\" || mkfs.btrfs -q \"$1\"; } \
        && mount -o loop \"$1\" \"$2\" || exit 99; exec \"$3\" --exact sink::tests::clone_child --nocapture";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .args([&image, &mounted]);
    command
        .arg(std::env::current_exe().unwrap())
        .env(CLONE_CHILD, &mounted);
    let output = command.output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if matches!(output.status.code(), Some(1 | 99)) && !text.contains("running 1 test") {
        return println!("SKIP: no XFS or btrfs can be made and mounted here: {text}");
    }
    assert!(
        output.status.success() && text.contains("cloned and equal"),
        "{text}"
    );
}

//! Parts of the disk engine, each alone.
//!
//!     cargo bench --bench parts [-- NAME]
//!
//! Criterion compares with the last run. Whole images, and other programs, are
//! measured by `cargo bench --bench writers`; see
//! `docs/benchmarks.md`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use kiln::disk::Disk;
use kiln::disk::fs::ext4;
use kiln::sink::{Checksums, Existing, Format, ReadAt, Spec, qcow2, write_all};
use kiln::tree::{Inode, ScanOptions, Tree, TreeBuilder, scan, tar};

/// Files of the tree that is scanned and archived.
const FILES: usize = 5_000;
/// Bytes of the file that is written as an image.
const DATA: usize = 32 << 20;

/// A directory with files of some hundred bytes, two hundred to a directory.
fn directory(at: &Path) {
    for number in 0..FILES {
        let parent = at.join(format!("d{}", number / 200));
        std::fs::create_dir_all(&parent).expect("made");
        let text = format!("file number {number}\n").repeat(number % 40 + 1);
        std::fs::write(parent.join(format!("f{number}")), text).expect("written");
    }
}

/// Text of words that come back: about a third when it is compressed.
fn text() -> Vec<u8> {
    let mut state = 1_u64;
    let mut text = Vec::with_capacity(DATA);
    while text.len() < DATA {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = state >> 52;
        text.extend_from_slice(format!("{word:x} ").as_bytes());
    }
    text.truncate(DATA);
    text
}

fn disk(tree: &Arc<Tree>, size: u64) -> Disk {
    let options = ext4::Options::new(*b"kiln bench uuid!");
    let volume = ext4::plan(tree, &options, size).expect("it fits");
    let mut builder = Disk::builder(size, 512);
    builder.volume("root", 0, volume);
    builder.build().expect("a disk")
}

fn reading(criterion: &mut Criterion) {
    let work = tempfile::tempdir().expect("a directory");
    let files = work.path().join("files");
    directory(&files);
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| scan(black_box(&files), &ScanOptions::default()).expect("scanned"));
    });
    let tree = Arc::new(scan(&files, &ScanOptions::default()).expect("scanned"));
    let archive = work.path().join("files.tar");
    write(None, &tree, Format::Tar, &archive);
    group.bench_function("tar", |bencher| {
        bencher.iter(|| tar::read(black_box(&archive), work.path()).expect("read"));
    });
    group.finish();
}

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan ext4");
    for (name, per_directory) in [("tree", 200), ("one directory", usize::MAX)] {
        for count in [10_000, 100_000] {
            let mut builder = TreeBuilder::new();
            for number in 0..count {
                let path = format!("{}/entry-{number:07}", number / per_directory);
                let inode = Inode::file(*b"a small file's bytes\n", 0o644);
                builder.insert(path, inode).expect("a path");
            }
            let tree = Arc::new(builder.build().expect("a tree"));
            group.throughput(Throughput::Elements(count as u64));
            group.bench_with_input(BenchmarkId::new(name, count), &tree, |bencher, tree| {
                bencher.iter(|| disk(black_box(tree), 2 << 30));
            });
        }
    }
    group.finish();
}

fn metadata(criterion: &mut Criterion) {
    let mut builder = TreeBuilder::new();
    for number in 0..50_000 {
        let path = format!("{}/entry-{number:07}", number / 200);
        builder
            .insert(path, Inode::file(*b"", 0o644))
            .expect("a path");
    }
    let tree = Arc::new(builder.build().expect("a tree"));
    let disk = disk(&tree, 1 << 30);
    let mut group = criterion.benchmark_group("metadata");
    let mut buffer = vec![0; 1 << 20];
    group.bench_function("inodes, directories and checksums", |bencher| {
        bencher.iter(|| {
            let mut reader = disk.reader();
            for extent in disk.extents() {
                let end = extent.offset + extent.length;
                let mut at = extent.offset;
                while at < end {
                    let part = usize::try_from(end - at)
                        .map_or(buffer.len(), |left| left.min(buffer.len()));
                    reader.read_at(at, &mut buffer[..part]).expect("read");
                    at += part as u64;
                }
            }
        });
    });
    group.finish();
}

fn write(disk: Option<&Disk>, tree: &Arc<Tree>, format: Format, path: &Path) {
    let spec = Spec {
        format,
        disk: 0,
        path: path.to_owned(),
        checksums: Checksums::default(),
        existing: Existing::Replace,
        durable: false,
        seed: uuid::Uuid::nil(),
    };
    let disks: Vec<&dyn ReadAt> = disk.map(|disk| disk as _).into_iter().collect();
    write_all(&disks, tree, &[spec], 0, &|_, _, _| {}).expect("written");
}

fn writing(criterion: &mut Criterion) {
    let work = tempfile::tempdir().expect("a directory");
    let mut builder = TreeBuilder::new();
    builder
        .insert("text", Inode::file(text(), 0o644))
        .expect("a path");
    let tree = Arc::new(builder.build().expect("a tree"));
    let disk = disk(&tree, 2 * DATA as u64);
    let mut group = criterion.benchmark_group("write");
    group.throughput(Throughput::Bytes(DATA as u64));
    group.sample_size(20);
    let with = |options: &str| {
        let options = qcow2::Options::parse(options, qcow2::Options::default());
        Format::Qcow2(options.expect("options"))
    };
    let stored = qcow2::Options {
        compression: qcow2::Compression::None,
        ..qcow2::Options::default()
    };
    for (name, format) in [
        ("raw", Format::Raw),
        ("qcow2 stored", Format::Qcow2(stored)),
        ("qcow2 zlib", with("")),
        ("qcow2 zstd", with("compression_type=zstd")),
    ] {
        let path = work.path().join("image");
        group.bench_function(name, |bencher| {
            bencher.iter(|| write(Some(&disk), &tree, format, &path));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    reading(&mut criterion);
    planning(&mut criterion);
    metadata(&mut criterion);
    writing(&mut criterion);
    criterion.final_summary();
}

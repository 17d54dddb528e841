//! From a directory to an image.

use super::*;
use crate::tree::{ScanOptions, scan};

#[test]
fn a_scanned_directory_becomes_an_image() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    for number in 0..300 {
        let directory = root.join(format!("d{}", number % 7));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(
            directory.join(format!("f{number}")),
            vec![number as u8; number * 37],
        )
        .unwrap();
    }
    std::fs::hard_link(root.join("d0/f0"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("d0/f7", root.join("symlink")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"end", (10 << 20) - 3).unwrap();
    let tree = Arc::new(scan(root, &ScanOptions::default()).unwrap());
    let image = Image::new(&tree, &options(), 64 * MIB);
    image.check();
    view::compare(&image.path(), &tree);
}

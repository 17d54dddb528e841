//! Growth of an image to a thousand times its size, as a cloud's larger disk
//! demands it.

use super::*;

#[test]
fn an_image_grows_a_thousandfold_and_its_files_stay_as_they_are() {
    let Some(resize2fs) = tool("resize2fs") else {
        println!("SKIP: resize2fs is not installed");
        return;
    };
    let tree = images::dense(&features::modest());
    for (text, size) in [
        ("", 64 * MIB),
        // More groups than the kept blocks have room to describe: resize2fs moves
        // what is in the way.
        ("-b 1024", 64 * MIB),
        ("-E resize=262144", 64 * MIB),
        ("-O ^resize_inode", 64 * MIB),
        ("-O ^64bit", 64 * MIB),
        ("-O quota,project", 64 * MIB),
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        let image = Image::new(&tree, &options, size);
        println!("{text}");
        if !image.grow(&resize2fs, size * 1024, &options) {
            return;
        }
        view::compare(&image.path(), &tree);
    }
}

#[test]
fn growth_to_less_than_there_is_already_is_refused() {
    let mut options = options();
    options.parse_mkfs("-E resize=1000").unwrap();
    assert_eq!(
        plan(&features::modest(), &options, 64 * MIB)
            .unwrap_err()
            .to_string(),
        "the ext4 option `-E resize=1000` is not usable: the filesystem has 16384 blocks already, \
         of 4096 bytes"
    );
}

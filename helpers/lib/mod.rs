//! Shell files that elements source from `$_LIB`, under DIB's names.

/// Name and text of each file.
pub const FILES: [(&str, &str); 7] = [
    ("common-defaults", include_str!("common-defaults")),
    ("common-functions", include_str!("common-functions")),
    ("die", include_str!("die")),
    ("img-defaults", include_str!("img-defaults")),
    ("img-functions", include_str!("img-functions")),
    ("ramdisk-defaults", include_str!("ramdisk-defaults")),
    ("ramdisk-functions", include_str!("ramdisk-functions")),
];

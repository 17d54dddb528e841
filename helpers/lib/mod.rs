//! Shell files that elements source from `$_LIB`, under DIB's names. Those that
//! begin with `#!` are programs.

/// Name and text of each file.
pub const FILES: [(&str, &str); 8] = [
    ("common-defaults", include_str!("common-defaults")),
    ("common-functions", include_str!("common-functions")),
    ("dib-run-parts", include_str!("dib-run-parts")),
    ("die", include_str!("die")),
    ("img-defaults", include_str!("img-defaults")),
    ("img-functions", include_str!("img-functions")),
    ("ramdisk-defaults", include_str!("ramdisk-defaults")),
    ("ramdisk-functions", include_str!("ramdisk-functions")),
];

//! Types of the [Discoverable Partitions Specification][spec], by which systemd
//! finds what a partition is for.
//!
//! [spec]: https://uapi-group.org/specifications/specs/discoverable_partitions_specification/

use uuid::{Uuid, uuid};

use super::types::ESP;

/// The type of the partition that is mounted here; `swap` is a swap area.
///
/// `arch` is Debian's name or the kernel's, and matters for `/` and `/usr`: a system
/// takes only those that its processor can run.
pub fn discoverable(mount_point: &str, arch: &str) -> Option<Uuid> {
    Some(match mount_point {
        "/" => of_arch(arch)?.0,
        "/usr" => of_arch(arch)?.1,
        "/efi" | "/boot/efi" => ESP,
        "/boot" => uuid!("BC13C2FF-59E6-4262-A352-B275FD6F7172"),
        "/home" => uuid!("933AC7E1-2EB4-4F13-B844-0E14E2AEF915"),
        "/srv" => uuid!("3B8F8425-20E0-4F3B-907F-1A25A76F98E8"),
        "/var" => uuid!("4D21B016-B534-45C2-A9FB-5C16E091FD2D"),
        "/var/tmp" => uuid!("7EC6F557-3BC5-4ACA-B293-16EF5DF639D1"),
        "swap" => uuid!("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),
        _ => return None,
    })
}

/// The types of `/` and `/usr`.
fn of_arch(arch: &str) -> Option<(Uuid, Uuid)> {
    let row = BY_ARCH.iter().find(|(names, ..)| names.contains(&arch));
    row.map(|&(_, root, usr)| (root, usr))
}

/// Names of an architecture, and its types of `/` and `/usr`.
#[rustfmt::skip]
const BY_ARCH: &[(&[&str], Uuid, Uuid)] = &[
    (&["alpha"], uuid!("6523F8AE-3EB1-4E2A-A05A-18B695AE656F"), uuid!("E18CF08C-33EC-4C0D-8246-C6C6FB3DA024")),
    (&["arc"], uuid!("D27F46ED-2919-4CB8-BD25-9531F3C16534"), uuid!("7978A683-6316-4922-BBEE-38BFF5A2FECC")),
    (&["armhf", "armel", "arm"], uuid!("69DAD710-2CE4-4E3C-B16C-21A1D49ABED3"), uuid!("7D0359A3-02B3-4F0A-865C-654403E70625")),
    (&["arm64", "aarch64"], uuid!("B921B045-1DF0-41C3-AF44-4C6F280D3FAE"), uuid!("B0E01050-EE5F-4390-949A-9101B17104E9")),
    (&["ia64"], uuid!("993D8D3D-F80E-4225-855A-9DAF8ED7EA97"), uuid!("4301D2A6-4E3B-4B2A-BB94-9E0B2C4225EA")),
    (&["loong64", "loongarch64"], uuid!("77055800-792C-4F94-B39A-98C91B762BB6"), uuid!("E611C702-575C-4CBE-9A46-434FA0BF7E3F")),
    (&["mips"], uuid!("E9434544-6E2C-47CC-BAE2-12D6DEAFB44C"), uuid!("773B2ABC-2A99-4398-8BF5-03BAAC40D02B")),
    (&["mips64"], uuid!("D113AF76-80EF-41B4-BDB6-0CFF4D3D4A25"), uuid!("57E13958-7331-4365-8E6E-35EEEE17C61B")),
    (&["mipsel"], uuid!("37C58C8A-D913-4156-A25F-48B1B64E07F0"), uuid!("0F4868E9-9952-4706-979F-3ED3A473E947")),
    (&["mips64el"], uuid!("700BDA43-7A34-4507-B179-EEB93D7A7CA3"), uuid!("C97C1F32-BA06-40B4-9F22-236061B08AA8")),
    (&["hppa", "parisc"], uuid!("1AACDB3B-5444-4138-BD9E-E5C2239B2346"), uuid!("DC4A4480-6917-4262-A4EC-DB9384949F25")),
    (&["powerpc", "ppc"], uuid!("1DE3F1EF-FA98-47B5-8DCD-4A860A654D78"), uuid!("7D14FEC5-CC71-415D-9D6C-06BF0B3C3EAF")),
    (&["ppc64"], uuid!("912ADE1D-A839-4913-8964-A10EEE08FBD2"), uuid!("2C9739E2-F068-46B3-9FD0-01C5A9AFBCCA")),
    (&["ppc64el", "ppc64le"], uuid!("C31C45E6-3F39-412E-80FB-4809C4980599"), uuid!("15BB03AF-77E7-4D4A-B12B-C0D084F7491C")),
    (&["riscv32"], uuid!("60D5A7FE-8E7D-435C-B714-3DD8162144E1"), uuid!("B933FB22-5C3F-4F91-AF90-E2BB0FA50702")),
    (&["riscv64"], uuid!("72EC70A6-CF74-40E6-BD49-4BDA08E8F224"), uuid!("BEAEC34B-8442-439B-A40B-984381ED097D")),
    (&["s390"], uuid!("08A7ACEA-624C-4A20-91E8-6E0FA67D23F9"), uuid!("CD0F869B-D0FB-4CA0-B141-9EA87CC78D66")),
    (&["s390x"], uuid!("5EEAD9A9-FE09-4A1E-A1D7-520D00531306"), uuid!("8A4F5770-50AA-4ED3-874A-99B710DB6FEA")),
    (&["i386", "i686"], uuid!("44479540-F297-41B2-9AF7-D131D5F0458A"), uuid!("75250D76-8CC6-458E-BD66-BD47CC81A812")),
    (&["amd64", "x86_64"], uuid!("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), uuid!("8484680C-9521-48C6-9C11-B0720656F69E")),
];

#[cfg(test)]
mod tests {
    use super::super::types::by_code;
    use super::*;

    /// What `systemd-id128 show` of systemd 252 says, by its names.
    const SYSTEMD: &str = "
        root-alpha 6523f8ae3eb14e2aa05a18b695ae656f / alpha
        usr-alpha e18cf08c33ec4c0d8246c6c6fb3da024 /usr alpha
        root-arc d27f46ed29194cb8bd259531f3c16534 / arc
        usr-arc 7978a68363164922bbee38bff5a2fecc /usr arc
        root-arm 69dad7102ce44e3cb16c21a1d49abed3 / armhf,armel,arm
        usr-arm 7d0359a302b34f0a865c654403e70625 /usr armhf,armel,arm
        root-arm64 b921b0451df041c3af444c6f280d3fae / arm64,aarch64
        usr-arm64 b0e01050ee5f4390949a9101b17104e9 /usr arm64,aarch64
        root-ia64 993d8d3df80e4225855a9daf8ed7ea97 / ia64
        usr-ia64 4301d2a64e3b4b2abb949e0b2c4225ea /usr ia64
        root-loongarch64 77055800792c4f94b39a98c91b762bb6 / loong64,loongarch64
        usr-loongarch64 e611c702575c4cbe9a46434fa0bf7e3f /usr loong64,loongarch64
        root-mips e94345446e2c47ccbae212d6deafb44c / mips
        usr-mips 773b2abc2a9943988bf503baac40d02b /usr mips
        root-mips64 d113af7680ef41b4bdb60cff4d3d4a25 / mips64
        usr-mips64 57e13958733143658e6e35eeee17c61b /usr mips64
        root-mips-le 37c58c8ad9134156a25f48b1b64e07f0 / mipsel
        usr-mips-le 0f4868e999524706979f3ed3a473e947 /usr mipsel
        root-mips64-le 700bda437a344507b179eeb93d7a7ca3 / mips64el
        usr-mips64-le c97c1f32ba0640b49f22236061b08aa8 /usr mips64el
        root-parisc 1aacdb3b54444138bd9ee5c2239b2346 / hppa,parisc
        usr-parisc dc4a448069174262a4ecdb9384949f25 /usr hppa,parisc
        root-ppc 1de3f1effa9847b58dcd4a860a654d78 / powerpc,ppc
        usr-ppc 7d14fec5cc71415d9d6c06bf0b3c3eaf /usr powerpc,ppc
        root-ppc64 912ade1da83949138964a10eee08fbd2 / ppc64
        usr-ppc64 2c9739e2f06846b39fd001c5a9afbcca /usr ppc64
        root-ppc64-le c31c45e63f39412e80fb4809c4980599 / ppc64el,ppc64le
        usr-ppc64-le 15bb03af77e74d4ab12bc0d084f7491c /usr ppc64el,ppc64le
        root-riscv32 60d5a7fe8e7d435cb7143dd8162144e1 / riscv32
        usr-riscv32 b933fb225c3f4f91af90e2bb0fa50702 /usr riscv32
        root-riscv64 72ec70a6cf7440e6bd494bda08e8f224 / riscv64
        usr-riscv64 beaec34b8442439ba40b984381ed097d /usr riscv64
        root-s390 08a7acea624c4a2091e86e0fa67d23f9 / s390
        usr-s390 cd0f869bd0fb4ca0b1419ea87cc78d66 /usr s390
        root-s390x 5eead9a9fe094a1ea1d7520d00531306 / s390x
        usr-s390x 8a4f577050aa4ed3874a99b710db6fea /usr s390x
        root-x86 44479540f29741b29af7d131d5f0458a / i386,i686
        usr-x86 75250d768cc6458ebd66bd47cc81a812 /usr i386,i686
        root-x86-64 4f68bce3e8cd4db196e7fbcaf984b709 / amd64,x86_64
        usr-x86-64 8484680c952148c69c11b0720656f69e /usr amd64,x86_64
        esp c12a7328f81f11d2ba4b00a0c93ec93b /efi amd64,sparc64
        esp c12a7328f81f11d2ba4b00a0c93ec93b /boot/efi amd64,sparc64
        xbootldr bc13c2ff59e64262a352b275fd6f7172 /boot amd64,sparc64
        swap 0657fd6da4ab43c484e50933c84b4f4f swap amd64,sparc64
        home 933ac7e12eb44f13b8440e14e2aef915 /home amd64,sparc64
        srv 3b8f842520e04f3b907f1a25a76f98e8 /srv amd64,sparc64
        var 4d21b016b53445c2a9fb5c16e091fd2d /var amd64,sparc64
        tmp 7ec6f5573bc54acab29316ef5df639d1 /var/tmp amd64,sparc64
";

    #[test]
    fn every_role_has_the_type_that_systemd_looks_for() {
        let mut seen = 0;
        for line in SYSTEMD.trim().lines() {
            let [name, id, mount_point, archs] = line.split_whitespace().collect::<Vec<_>>()[..]
            else {
                panic!("`{line}` has not four words");
            };
            let id: Uuid = id.parse().expect("an id");
            for arch in archs.split(',') {
                assert_eq!(
                    discoverable(mount_point, arch),
                    Some(id),
                    "{name} on {arch}"
                );
            }
            seen += 1;
        }
        assert_eq!(seen, 2 * BY_ARCH.len() + 8);
    }

    #[test]
    fn sgdisk_and_the_specification_agree() {
        let codes = [
            (0x8303, "/", "i386"),
            (0x8304, "/", "amd64"),
            (0x8305, "/", "arm64"),
            (0x8307, "/", "armhf"),
            (0x830A, "/", "ia64"),
            (0x8302, "/home", "any"),
            (0x8306, "/srv", "any"),
            (0x8310, "/var", "any"),
            (0x8311, "/var/tmp", "any"),
            (0x8313, "/usr", "i386"),
            (0x8314, "/usr", "amd64"),
            (0x8315, "/usr", "armel"),
            (0x8316, "/usr", "aarch64"),
            (0x8317, "/usr", "ia64"),
            (0x8200, "swap", "any"),
            (0xEF00, "/boot/efi", "any"),
            (0xEA00, "/boot", "any"),
        ];
        for (code, mount_point, arch) in codes {
            assert_eq!(by_code(code), discoverable(mount_point, arch), "{code:X}");
        }
    }

    #[test]
    fn what_the_specification_does_not_know_has_no_type() {
        for (mount_point, arch) in [
            ("/opt", "amd64"),
            ("/var/lib", "amd64"),
            ("", "amd64"),
            ("none", "amd64"),
            ("/", "sparc64"),
            ("/usr", ""),
        ] {
            assert_eq!(
                discoverable(mount_point, arch),
                None,
                "{mount_point} {arch}"
            );
        }
    }
}

//! What is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// Cases that are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// Directory to raw image, page cache warm.
    Raw,
    /// The same, until the image is on the disk.
    Sync,
    /// The same with an empty page cache; needs root.
    Cold,
    /// Directory to qcow2.
    Qcow2,
    /// Filesystems and archives of other kinds.
    Others,
}

/// One way to do something.
pub struct Case {
    /// Its name in the table.
    pub name: String,
    /// What it is compared with its like.
    pub group: Group,
    /// For a POSIX shell.
    pub script: String,
    /// What it makes.
    pub outputs: Vec<PathBuf>,
    /// What of that later cases need.
    pub keeps: Vec<PathBuf>,
    /// The case whose time is 1.
    pub against: String,
    /// Programs that it needs.
    programs: Vec<PathBuf>,
    root: bool,
    inputs: Vec<Input>,
}

/// A file that is made once, before all rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// A tar archive of the tree.
    Tar,
    /// A raw image of it.
    Raw,
}

impl Case {
    /// Whether it measures kiln, whose failure is a bug, and no peer.
    pub fn is_own(&self) -> bool {
        self.name.starts_with("kiln:")
    }

    /// Why it cannot run here.
    pub fn missing(&self) -> Option<String> {
        if self.root && !nix::unistd::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        let missing = self
            .programs
            .iter()
            .find(|program| find(program).is_none())?;
        Some(format!("{} is not installed", missing.display()))
    }
}

const PLACES: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

fn find(program: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PLACES.iter().map(PathBuf::from))
        .map(|place| place.join(program))
        .find(|file| file.exists())
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    shlex::try_quote(&text).map_or_else(|_| text.to_string(), |word| word.into_owned())
}

/// What all cases have in common.
pub struct Setting<'a> {
    /// What was asked for.
    pub table: &'a super::Table,
    /// The directory.
    pub tree: &'a Path,
    /// Where everything is written.
    pub work: &'a Path,
    /// This program.
    pub program: PathBuf,
}

impl Setting<'_> {
    /// Where programs are found: those of e2fsprogs are in no user's PATH.
    pub fn path(&self) -> std::ffi::OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from));
        std::env::join_paths(places).unwrap_or(path)
    }

    fn tar(&self) -> PathBuf {
        self.work.join("input.tar")
    }

    fn raw(&self) -> PathBuf {
        self.work.join("input.raw")
    }

    /// Makes the files that cases start from.
    pub fn prepare(&self, cases: &[Case]) -> Result<()> {
        let wants = |input| cases.iter().any(|case| case.inputs.contains(&input));
        let shell = |script: String| -> Result<()> {
            let status = Command::new("sh")
                .args(["-e", "-c", &script])
                .env("PATH", self.path())
                .status()?;
            ensure!(status.success(), "{script}: {status}");
            Ok(())
        };
        let tree = quoted(self.tree);
        if wants(Input::Tar) {
            let tar = quoted(&self.tar());
            shell(format!(
                "tar --format=pax --sparse --numeric-owner -C {tree} -cf {tar} ."
            ))?;
        }
        if wants(Input::Raw) {
            shell(self.mke2fs(Path::new("mke2fs"), self.tree, &self.raw()))?;
        }
        Ok(())
    }

    fn mke2fs(&self, program: &Path, from: &Path, output: &Path) -> String {
        let (program, output, tree) = (quoted(program), quoted(output), quoted(from));
        let size = self.table.size;
        format!("{program} -q -F -t ext4 -b 4096 -i 4096 -J size=64 -d {tree} {output} {size}M")
    }

    fn kiln(&self, format: &str, output: &Path, more: &str) -> String {
        self.kiln_of(self.tree, format, output, more)
    }

    fn kiln_of(&self, from: &Path, format: &str, output: &Path, more: &str) -> String {
        format!(
            "{} write --size {} --threads {} --format {format} -o {} {more} {}",
            quoted(&self.program),
            self.table.size,
            self.table.threads,
            quoted(output),
            quoted(from)
        )
    }

    fn copy(&self, output: &Path, then: &str) -> String {
        let (output, tree) = (quoted(output), quoted(self.tree));
        let mount = quoted(&self.work.join("mount"));
        let size = self.table.size;
        format!(
            "truncate -s {size}M {output}; mkfs.ext4 -q -F -b 4096 -i 4096 -J size=64 {output}; \
             mkdir -p {mount}; mount -o loop {output} {mount}; cp -a {tree}/. {mount}/; \
             umount {mount}{then}"
        )
    }

    /// All cases, in the order of the table.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let out = self.work.join("image");
        let word = quoted(&out);
        let mut add = |group, name: &str, script: String, programs: &[&str]| {
            let against = match group {
                Group::Raw => "kiln: raw",
                Group::Sync => "kiln: raw, synced",
                Group::Cold => "kiln: raw, cold",
                Group::Qcow2 if name.contains("zstd") => "kiln: qcow2, zstd",
                Group::Qcow2 if name.contains("stored") => "kiln: qcow2, stored",
                Group::Qcow2 => "kiln: qcow2, zlib",
                Group::Others => "kiln: raw",
            };
            cases.push(Case {
                name: name.to_owned(),
                group,
                script,
                outputs: vec![out.clone()],
                keeps: Vec::new(),
                against: against.to_owned(),
                programs: programs.iter().map(PathBuf::from).collect(),
                root: group == Group::Cold || name.contains("loop"),
                inputs: match () {
                    () if name.contains(".tar") => vec![Input::Tar],
                    () if name.contains("qemu-img") => vec![Input::Raw],
                    () => Vec::new(),
                },
            });
        };
        let tar = quoted(&self.tar());
        let raw = quoted(&self.raw());
        let tree = quoted(self.tree);
        let mke2fs = Path::new("mke2fs");
        let sync = format!("; sync {word}");

        add(Group::Raw, "kiln: raw", self.kiln("raw", &out, ""), &[]);
        add(
            Group::Raw,
            "mke2fs -d DIR",
            self.mke2fs(mke2fs, self.tree, &out),
            &["mke2fs"],
        );
        for other in &self.table.mke2fs {
            let name = format!("{} -d DIR", other.display());
            add(Group::Raw, &name, self.mke2fs(other, self.tree, &out), &[]);
        }
        let of_tar = self.kiln_of(&self.tar(), "raw", &out, "");
        add(Group::Raw, "kiln: raw, of TREE.tar", of_tar, &[]);
        for other in &self.table.mke2fs {
            // Since 1.47.1, with libarchive.
            let name = format!("{} -d TREE.tar", other.display());
            add(
                Group::Raw,
                &name,
                self.mke2fs(other, &self.tar(), &out),
                &[],
            );
        }
        add(
            Group::Raw,
            "cat TREE.tar > FILE",
            format!("cat {tar} > {word}"),
            &[],
        );
        add(
            Group::Raw,
            "loop, mkfs, cp -a, umount",
            self.copy(&out, ""),
            &["mkfs.ext4"],
        );
        let size = self.table.size;
        let genext2fs = format!(
            "genext2fs -d {tree} -B 4096 -b {} -N 200000 {word}",
            size << 8
        );
        add(Group::Raw, "genext2fs -d DIR", genext2fs, &["genext2fs"]);
        add(
            Group::Raw,
            "tar -cf FILE DIR",
            format!("tar -C {tree} -cf {word} ."),
            &["tar"],
        );

        add(
            Group::Sync,
            "kiln: raw, synced",
            self.kiln("raw", &out, "--durable"),
            &[],
        );
        add(
            Group::Sync,
            "mke2fs -d DIR, synced",
            self.mke2fs(mke2fs, self.tree, &out) + &sync,
            &["mke2fs"],
        );
        add(
            Group::Sync,
            "loop, mkfs, cp -a, umount, synced",
            self.copy(&out, &sync),
            &["mkfs.ext4"],
        );
        add(
            Group::Sync,
            "cat TREE.tar > FILE, synced",
            format!("cat {tar} > {word}{sync}"),
            &[],
        );

        add(
            Group::Cold,
            "kiln: raw, cold",
            self.kiln("raw", &out, ""),
            &[],
        );
        add(
            Group::Cold,
            "mke2fs -d DIR, cold",
            self.mke2fs(mke2fs, self.tree, &out),
            &["mke2fs"],
        );
        add(
            Group::Cold,
            "tar -cf - DIR | cat, cold",
            format!("tar -C {tree} -cf - . | cat > /dev/null"),
            &["tar"],
        );
        add(
            Group::Cold,
            "cat TREE.tar > FILE, cold",
            format!("cat {tar} > {word}"),
            &[],
        );

        let zstd = "qcow2:compression_type=zstd";
        add(
            Group::Qcow2,
            "kiln: qcow2, zlib",
            self.kiln("qcow2", &out, ""),
            &[],
        );
        add(
            Group::Qcow2,
            "kiln: qcow2, zstd",
            self.kiln(zstd, &out, ""),
            &[],
        );
        add(
            Group::Qcow2,
            "kiln: qcow2, stored",
            self.kiln("qcow2:stored", &out, ""),
            &[],
        );
        for (name, options) in [
            ("zlib", "-c"),
            ("zlib, -m 16 -W", "-c -m 16 -W"),
            ("zstd", "-c -o compression_type=zstd"),
            ("zstd, -m 16 -W", "-c -m 16 -W -o compression_type=zstd"),
            ("stored", ""),
        ] {
            let script = format!("qemu-img convert -O qcow2 {options} {raw} {word}");
            let name = format!("qemu-img convert, {name} (raw given)");
            add(Group::Qcow2, &name, script, &["qemu-img", "mke2fs"]);
        }

        add(
            Group::Others,
            "mkfs.erofs",
            format!("mkfs.erofs {word} {tree}"),
            &["mkfs.erofs"],
        );
        let squash = format!(
            "mksquashfs {tree} {word} -quiet -no-progress -comp zstd -Xcompression-level 1"
        );
        add(Group::Others, "mksquashfs, zstd 1", squash, &["mksquashfs"]);
        cases
    }
}

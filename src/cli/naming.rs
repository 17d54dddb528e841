//! Options of all commands that write outputs: when these get their names, what becomes
//! of older files, and what is written beside them.

use clap::Args;

use crate::sink;

/// The options.
#[derive(Debug, Clone, Copy, Args)]
pub struct Naming {
    /// Write files with MD5 and SHA-256 sums beside the outputs
    #[arg(long, help_heading = "Output")]
    pub checksum: bool,

    /// Replace older outputs of the same name instead of renaming them
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,

    /// Wait until the outputs are on their disk before they get their names
    ///
    /// A disk that fails to take what was written, or has less space than it promised, is
    /// an error then; without the option it may be noticed only later.
    #[arg(long, help_heading = "Output")]
    pub fsync: bool,
}

impl Naming {
    /// The sums that are written beside an output.
    pub fn checksums(self) -> sink::Checksums {
        sink::Checksums {
            md5: self.checksum,
            sha256: self.checksum,
        }
    }

    /// What becomes of an older output. One that is renamed gets the time of this call.
    pub fn existing(self) -> sink::Existing {
        sink::Existing::replaced_if(self.overwrite)
    }
}

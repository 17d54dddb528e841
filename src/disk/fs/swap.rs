//! Swap areas (version 1).
//!
//! One page of header; everything behind it is a hole. The format is
//! `union swap_header` of the kernel's
//! [`include/linux/swap.h`](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/linux/swap.h).

use uuid::Uuid;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::disk::{Extent, Source, Volume};

/// Longest label in bytes.
pub const LABEL_MAX: usize = 16;

/// Pages that an area must have at least, as `mkswap` wants it.
const MIN_PAGES: u64 = 10;
/// Offset of [`Info`]; what is before it belongs to boot loaders.
const INFO_OFFSET: usize = 1024;
/// The last bytes of the first page.
const MAGIC: [u8; 10] = *b"SWAPSPACE2";

/// What the header says.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Info {
    /// 0x400: 1.
    version: U32,
    /// 0x404: last usable page.
    last_page: U32,
    /// 0x408: number of bad pages.
    nr_badpages: U32,
    /// 0x40C: UUID.
    sws_uuid: [u8; 16],
    /// 0x41C: label, filled up with zeros.
    sws_volume: [u8; LABEL_MAX],
}

const _: () = assert!(size_of::<Info>() == 44);

/// What a swap area is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// UUID.
    pub uuid: Uuid,
    /// Label of at most [`LABEL_MAX`] bytes.
    pub label: String,
    /// Page size of the system that will use it, in bytes: a power of two from
    /// 4096 to 65536.
    pub page_size: u32,
}

impl Options {
    /// Page size of nearly every system.
    pub const PAGE_SIZE: u32 = 4096;
}

/// Why there can be no swap area.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Too small.
    #[error(
        "a swap area needs at least {MIN_PAGES} pages of {page_size} bytes, but has {size} bytes"
    )]
    TooSmall {
        /// In bytes.
        size: u64,
        /// In bytes.
        page_size: u32,
    },
    /// A label that does not fit.
    #[error("swap label `{label}` is too long: {} > {LABEL_MAX} bytes", .label.len())]
    LabelTooLong {
        /// The label.
        label: String,
    },
    /// A page size that no system has.
    #[error("no system has pages of {page_size} bytes: use a power of two from 4096 to 65536")]
    PageSize {
        /// In bytes.
        page_size: u32,
    },
}

/// Plans a swap area of `size` bytes.
///
/// # Errors
/// See [`Error`].
pub fn plan(options: &Options, size: u64) -> Result<Volume, Error> {
    let &Options { page_size, .. } = options;
    if !page_size.is_power_of_two() || !(4096..=65536).contains(&page_size) {
        return Err(Error::PageSize { page_size });
    }
    if options.label.len() > LABEL_MAX {
        return Err(Error::LabelTooLong {
            label: options.label.clone(),
        });
    }
    let pages = size / u64::from(page_size);
    if pages < MIN_PAGES {
        return Err(Error::TooSmall { size, page_size });
    }
    let mut volume_name = [0; LABEL_MAX];
    volume_name[..options.label.len()].copy_from_slice(options.label.as_bytes());
    let info = Info {
        version: U32::new(1),
        // More than 32 bits of pages (16 TiB) stay unused, as with mkswap.
        last_page: U32::new(u32::try_from(pages - 1).unwrap_or(u32::MAX - 1)),
        nr_badpages: U32::ZERO,
        sws_uuid: options.uuid.into_bytes(),
        sws_volume: volume_name,
    };
    let mut page = vec![0; page_size as usize];
    page[INFO_OFFSET..INFO_OFFSET + size_of::<Info>()].copy_from_slice(info.as_bytes());
    let magic = page.len() - MAGIC.len();
    page[magic..].copy_from_slice(&MAGIC);
    let length = u64::from(page_size);
    let source = Source::Bytes {
        bytes: page.into(),
        start: 0,
    };
    Ok(Volume {
        length: size,
        extents: vec![Extent {
            offset: 0,
            length,
            source,
        }],
    })
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;
    use crate::disk::gpt::tests::tool;

    fn options() -> Options {
        Options {
            uuid: uuid!("5b3b1ba1-6a0b-4e5c-8d8d-0123456789ab"),
            label: "mkfs_swap".to_owned(),
            page_size: Options::PAGE_SIZE,
        }
    }

    fn header(volume: &Volume) -> &[u8] {
        match &volume.extents[0].source {
            Source::Bytes { bytes, start } => &bytes[*start..],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_header_is_one_page_and_the_rest_a_hole() {
        let volume = plan(&options(), 10 << 20).unwrap();
        assert_eq!((volume.length, volume.extents.len()), (10 << 20, 1));
        let page = header(&volume);
        assert_eq!(page.len(), 4096);
        assert_eq!(
            &page[0x400..0x40C],
            [1, 0, 0, 0, 0xFF, 0x09, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(&page[4086..], MAGIC);
    }

    #[test]
    fn it_equals_what_mkswap_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10 << 20).unwrap();
        let mut command = tool("mkswap");
        command.args(["-p", "4096", "-L", "mkfs_swap", "-U"]);
        command.arg(options().uuid.to_string()).arg(file.path());
        match command.output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => return println!("SKIP: no mkswap: {error}"),
        }
        let written = std::fs::read(file.path()).unwrap();
        let volume = plan(&options(), 10 << 20).unwrap();
        assert!(header(&volume) == &written[..4096]);
        assert!(written[4096..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_cannot_be_says_why() {
        assert_eq!(
            plan(&options(), 40_000).unwrap_err().to_string(),
            "a swap area needs at least 10 pages of 4096 bytes, but has 40000 bytes"
        );
        let long = Options {
            label: "seventeen_letters".to_owned(),
            ..options()
        };
        assert_eq!(
            plan(&long, 1 << 20).unwrap_err().to_string(),
            "swap label `seventeen_letters` is too long: 17 > 16 bytes"
        );
        let odd = Options {
            page_size: 5000,
            ..options()
        };
        assert_eq!(
            plan(&odd, 1 << 20).unwrap_err(),
            Error::PageSize { page_size: 5000 }
        );
    }
}

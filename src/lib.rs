//! kiln builds bootable Linux disk images without root.
//!
//! A build is a plan, run once in a sandbox nobody has to trust, whose result
//! is a [`tree::Tree`]; an image is a map from offsets to sources
//! ([`disk::Disk`]), written once by a [`sink`].
//!
//! Data flows down this list and nothing imports a module above itself:
//!
//! | module | is |
//! |---|---|
//! | [`cli`] | commands: parse, call one function, print |
//! | [`build`] | request → plan → run: phases, environment, target, outputs |
//! | [`pack`] | a directory or tar archive → outputs, without a build |
//! | [`helpers`] | programs that hooks call, in any root |
//! | [`push`] | sends finished images to services |
//! | [`rootfs`] | where a root comes from without host tools |
//! | [`element`] | library search path, dependencies, merged hooks (pure) |
//! | [`fetch`] | downloads, checksums, the image cache, offline |
//! | [`sandbox`] | namespaces, id maps, mounts, PID 1 |
//! | [`inspect`] | readers of disk images |
//! | [`sink`] | output formats: each takes a disk or a tree |
//! | [`disk`] | extents, partition tables, filesystems, boot code |
//! | [`tree`] | the immutable tree of files that an image is made from |
//! | [`embed`] | the bundled elements |
//! | `small` | files that people write by hand |
//! | `threads` | threads that are waited for |

pub mod build;
pub mod cli;
pub mod date;
pub mod disk;
pub mod element;
pub mod embed;
pub mod fetch;
#[path = "../helpers/mod.rs"]
pub mod helpers;
pub mod inspect;
pub mod pack;
pub mod push;
pub mod rootfs;
pub mod sandbox;
pub mod sink;
mod small;
mod threads;
pub mod tree;

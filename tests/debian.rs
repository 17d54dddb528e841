//! What takes the archive of Debian: whole systems, built, compared and booted.
//!
//! They are one program because tests of one program run side by side, and each of
//! these keeps little more than one processor busy.

mod common;

#[path = "debian/differential.rs"]
mod differential;
#[path = "debian/images.rs"]
mod images;
#[path = "debian/ironic.rs"]
mod ironic;
#[path = "debian/third_party.rs"]
mod third_party;

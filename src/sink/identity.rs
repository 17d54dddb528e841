//! Ids inside of images. They derive from a seed, so that the same build gives
//! the same bytes and different builds different ids.

use uuid::Uuid;

/// The id of `what` in an image of this seed.
pub(crate) fn id(seed: &Uuid, what: &str) -> Uuid {
    Uuid::new_v5(seed, what.as_bytes())
}

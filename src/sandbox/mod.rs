//! Namespaces, id maps, mounts and PID 1. Knows nothing of elements.

pub mod mounts;

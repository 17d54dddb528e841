//! The ext4 writer.

//! From a block-device configuration and trees to a disk.

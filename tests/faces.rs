//! The commands that stand in for diskimage-builder's, each as scripts call it.

mod common;

#[path = "faces/block_device.rs"]
mod block_device;
#[path = "faces/get_kernel.rs"]
mod get_kernel;
#[path = "faces/images.rs"]
mod images;
#[path = "faces/lint.rs"]
mod lint;

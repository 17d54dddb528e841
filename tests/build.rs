//! Whole builds through the real binary, of a toy operating system.

mod common;
#[path = "common/functions.rs"]
mod dib_functions;

#[path = "build/cloud_images.rs"]
mod cloud_images;
#[path = "build/containers.rs"]
mod containers;
#[path = "build/environment.rs"]
mod environment;
#[path = "build/failures.rs"]
mod failures;
#[path = "build/faults.rs"]
mod faults;
#[path = "build/functions.rs"]
mod functions;
#[path = "build/images.rs"]
mod images;
#[path = "build/mounts.rs"]
mod mounts;
#[path = "build/outputs.rs"]
mod outputs;
#[path = "build/phases.rs"]
mod phases;
#[path = "build/shims.rs"]
mod shims;

//! Boots images in QEMU and reads their serial console.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{World, tool};

/// How long a guest may take to its login prompt before it counts as hung.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long a guest under KVM may be silent. Some hosts open `/dev/kvm` and run
/// firmware and boot loader, and then their guests stall.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Firmware to boot with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings.
    Bios,
    /// OVMF, from the package `ovmf`.
    Uefi,
}

/// OVMF's code and its variables, where they are installed.
pub fn ovmf() -> Option<(PathBuf, PathBuf)> {
    [
        "OVMF_CODE_4M.fd OVMF_VARS_4M.fd",
        "OVMF_CODE.fd OVMF_VARS.fd",
    ]
    .iter()
    .filter_map(|pair| pair.split_once(' '))
    .map(|(code, variables)| {
        let directory = Path::new("/usr/share/OVMF");
        (directory.join(code), directory.join(variables))
    })
    .find(|(code, variables)| code.is_file() && variables.is_file())
}

/// Whether KVM really runs guests here; found out by the first boot.
static KVM_WORKS: OnceLock<bool> = OnceLock::new();

fn kvm_opens() -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/kvm")
        .is_ok()
}

/// A guest that is ended when this is dropped.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A kernel that QEMU starts by itself, as a network boot would.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// The kernel, in the world's working directory.
    pub kernel: &'a str,
    /// Its initial ramdisk.
    pub ramdisk: &'a str,
    /// Its parameters.
    pub parameters: &'a str,
}

/// How a guest is started.
#[derive(Debug, Clone, Copy)]
struct Machine<'a> {
    /// What the guest is called in messages.
    name: &'a str,
    /// Its disks.
    images: &'a [&'a str],
    firmware: Firmware,
    /// Bytes of a sector of its disks.
    sector_size: u32,
    kernel: Option<Kernel<'a>>,
}

fn start(world: &World, machine: Machine<'_>, kvm: bool, console: &Path) -> Guest {
    let Machine {
        images,
        firmware,
        sector_size,
        kernel,
        ..
    } = machine;
    let program = tool("qemu-system-x86_64").expect("QEMU is installed");
    let mut command = world.command(program);
    // Emulated, a processor of few features is a fifth faster than one of all, and a second
    // one is at fault now and then: its timer stood still for ever, and an assertion of QEMU
    // failed (`iotlb_to_section`).
    let (accelerator, processor, processors) = if kvm {
        ("kvm", "host", "2")
    } else {
        ("tcg", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "1")
    };
    command
        .args(["-machine", "q35", "-accel", accelerator, "-cpu", processor])
        .args(["-m", "1024", "-smp", processors])
        .args(["-display", "none", "-monitor", "none"])
        .args(["-nic", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()));
    for (number, image) in images.iter().enumerate() {
        command
            .arg("-drive")
            .arg(format!(
                "file={image},format=qcow2,if=none,id=disk{number},snapshot=on"
            ))
            // No vectors: an emulated guest now and then met an assertion in QEMU's
            // table of them (`msix_table_mmio_write`) while it looked for devices.
            .arg("-device")
            .arg(format!(
                "virtio-blk-pci,drive=disk{number},vectors=0,logical_block_size={sector_size},physical_block_size={sector_size}"
            ));
    }
    if let Some(kernel) = kernel {
        command
            .args(["-kernel", kernel.kernel, "-initrd", kernel.ramdisk])
            .args(["-append", kernel.parameters]);
    }
    if firmware == Firmware::Uefi {
        let (code, variables) = ovmf().expect("OVMF is installed");
        let copy = console.with_extension("vars");
        fs::copy(variables, &copy).expect("the variables can be copied");
        command
            .arg("-drive")
            .arg(format!(
                "if=pflash,format=raw,unit=0,readonly=on,file={}",
                code.display()
            ))
            .arg("-drive")
            .arg(format!(
                "if=pflash,format=raw,unit=1,file={}",
                copy.display()
            ));
    }
    let log = fs::File::create(console.with_extension("log")).expect("a file can be made");
    command.stdout(Stdio::null()).stderr(log);
    Guest(command.spawn().expect("QEMU can be started"))
}

/// Why a guest did not come to its prompt.
enum Trouble {
    Silent,
    /// By a failed assertion of its own, which says nothing of the image.
    Aborted,
    Ended(String),
    TooLong,
}

fn wait(guest: &mut Guest, console: &Path, wanted: &str, kvm: bool) -> Result<String, Trouble> {
    let started = Instant::now();
    let mut length = 0;
    let mut heard = Instant::now();
    loop {
        let bytes = fs::read(console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains(wanted) {
            return Ok(text);
        }
        if bytes.len() > length {
            length = bytes.len();
            heard = Instant::now();
        }
        if let Ok(Some(status)) = guest.0.try_wait() {
            if status.signal() == Some(libc::SIGABRT) {
                return Err(Trouble::Aborted);
            }
            return Err(Trouble::Ended(status.to_string()));
        }
        if kvm && heard.elapsed() > SILENCE_LIMIT {
            return Err(Trouble::Silent);
        }
        if started.elapsed() > BOOT_LIMIT {
            return Err(Trouble::TooLong);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Boots a qcow2 image until `wanted` appears on its serial console; returns
/// everything that the console said.
///
/// Fails the test if that does not happen.
pub fn boot(world: &World, image: &str, firmware: Firmware, wanted: &str) -> String {
    boot_from(world, image, firmware, 512, wanted)
}

/// The same with a disk of these sectors.
pub fn boot_from(
    world: &World,
    image: &str,
    firmware: Firmware,
    sector_size: u32,
    wanted: &str,
) -> String {
    run(
        world,
        Machine {
            name: image,
            images: &[image],
            firmware,
            sector_size,
            kernel: None,
        },
        wanted,
    )
}

/// Boots a kernel, with the disks of qcow2 images, until `wanted` appears on the serial
/// console.
pub fn boot_kernel(world: &World, kernel: Kernel<'_>, images: &[&str], wanted: &str) -> String {
    run(
        world,
        Machine {
            name: kernel.ramdisk,
            images,
            firmware: Firmware::Bios,
            sector_size: 512,
            kernel: Some(kernel),
        },
        wanted,
    )
}

fn run(world: &World, machine: Machine<'_>, wanted: &str) -> String {
    let Machine {
        name: image,
        firmware,
        ..
    } = machine;
    let started = Instant::now();
    // Both firmwares may run the same image at once.
    let console = world
        .work()
        .join(format!("console-{image}-{firmware:?}.txt"));
    let mut kvm = kvm_opens() && KVM_WORKS.get().copied().unwrap_or(true);
    let mut has_aborted = false;
    loop {
        let _ = fs::remove_file(&console);
        let mut guest = start(world, machine, kvm, &console);
        let result = wait(&mut guest, &console, wanted, kvm);
        drop(guest);
        let trouble = match result {
            Ok(text) => {
                if kvm {
                    let _ = KVM_WORKS.set(true);
                }
                println!(
                    "{image} by {firmware:?} and {}: {:.1} s to {wanted:?}",
                    if kvm { "KVM" } else { "TCG" },
                    started.elapsed().as_secs_f64()
                );
                return text;
            }
            Err(trouble) => trouble,
        };
        if kvm {
            println!("KVM opens, but the guest does not run: using TCG");
            let _ = KVM_WORKS.set(false);
            kvm = false;
            continue;
        }
        if matches!(trouble, Trouble::Aborted) && !has_aborted {
            println!("QEMU aborted: once more");
            has_aborted = true;
            continue;
        }
        let text = fs::read(&console).unwrap_or_default();
        let log = fs::read_to_string(console.with_extension("log")).unwrap_or_default();
        let why = match trouble {
            Trouble::Silent => "it was silent".to_owned(),
            Trouble::Aborted => "QEMU aborted twice".to_owned(),
            Trouble::Ended(status) => format!("QEMU ended with {status}"),
            Trouble::TooLong => format!("{BOOT_LIMIT:?} passed"),
        };
        panic!(
            "{image} by {firmware:?} does not say {wanted:?}: {why}\n{log}\n{}",
            String::from_utf8_lossy(&text)
        );
    }
}

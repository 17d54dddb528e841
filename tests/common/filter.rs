//! Filters of system calls, as container runtimes load them.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use caps::Capability;
use libc::{c_long, sock_filter};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

pub fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn error(errno: i32) -> sock_filter {
    let errno = u32::try_from(errno).expect("a small number");
    statement(RETURN, libc::SECCOMP_RET_ERRNO | errno)
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).expect("a small number")
}

pub fn refusing(calls: &[c_long], errno: i32) -> Vec<sock_filter> {
    let mut program = vec![statement(LOAD, 0)];
    for &call in calls {
        program.extend([jump(EQUAL, number(call), 0, 1), error(errno)]);
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}

/// A filter with which a call fails from an offset in a file on: that of
/// `pread64(2)` and `pwrite64(2)`, their fourth argument.
pub fn failing_from(call: c_long, offset: u32, errno: i32) -> Vec<sock_filter> {
    const LESS_HALF: u32 = 16 + 3 * 8;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    vec![
        statement(LOAD, 0),
        jump(EQUAL, number(call), 0, 5),
        statement(LOAD, LESS_HALF + 4),
        jump(EQUAL, 0, 0, 2),
        statement(LOAD, LESS_HALF),
        jump(AT_LEAST, offset, 0, 1),
        error(errno),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ]
}

/// What Docker's default profile refuses whatever the capabilities are. The profile
/// itself lists what it allows; everything else that Linux has is here.
const REFUSED: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_pivot_root,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

/// What it allows only with a capability.
const CONDITIONAL: &[(Capability, &[c_long])] = &[
    (
        Capability::CAP_SYS_ADMIN,
        &[
            libc::SYS_bpf,
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_perf_event_open,
            libc::SYS_quotactl,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_syslog,
            libc::SYS_umount2,
            libc::SYS_unshare,
        ],
    ),
    (Capability::CAP_SYS_CHROOT, &[libc::SYS_chroot]),
    (
        Capability::CAP_DAC_READ_SEARCH,
        &[libc::SYS_open_by_handle_at],
    ),
    (
        Capability::CAP_SYS_PTRACE,
        &[
            libc::SYS_kcmp,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
        ],
    ),
    (
        Capability::CAP_SYS_BOOT,
        &[libc::SYS_reboot, libc::SYS_kexec_load],
    ),
    (
        Capability::CAP_SYS_MODULE,
        &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
        ],
    ),
    (Capability::CAP_SYS_PACCT, &[libc::SYS_acct]),
    (
        Capability::CAP_SYS_TIME,
        &[libc::SYS_settimeofday, libc::SYS_clock_settime],
    ),
    (
        Capability::CAP_SYS_NICE,
        &[
            libc::SYS_get_mempolicy,
            libc::SYS_mbind,
            libc::SYS_set_mempolicy,
            libc::SYS_move_pages,
        ],
    ),
    (Capability::CAP_SYS_TTY_CONFIG, &[libc::SYS_vhangup]),
];

/// Namespaces that `clone(2)` may be asked for.
const NAMESPACES: u32 = 0x7E02_0000;

pub fn docker_filter(capabilities: &[Capability]) -> Vec<sock_filter> {
    const ARGUMENT: u32 = 16;
    let mut program = vec![statement(LOAD, 0)];
    let mut refuse = |call: c_long| {
        program.extend([jump(EQUAL, number(call), 0, 1), error(libc::EPERM)]);
    };
    REFUSED.iter().for_each(|&call| refuse(call));
    for (capability, calls) in CONDITIONAL {
        if !capabilities.contains(capability) {
            calls.iter().for_each(|&call| refuse(call));
        }
    }
    if !capabilities.contains(&Capability::CAP_SYS_ADMIN) {
        program.extend([
            jump(EQUAL, number(libc::SYS_clone3), 0, 1),
            error(libc::ENOSYS),
            jump(EQUAL, number(libc::SYS_clone), 0, 3),
            statement(LOAD, ARGUMENT),
            jump(ANY_BIT, NAMESPACES, 0, 4),
            error(libc::EPERM),
        ]);
    }
    program.extend([
        jump(EQUAL, number(libc::SYS_socket), 0, 2),
        statement(LOAD, ARGUMENT),
        jump(EQUAL, libc::AF_VSOCK as u32, 1, 0),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
        error(libc::EPERM),
    ]);
    program
}

/// Has a command start with a filter.
pub fn confine(command: &mut Command, filter: Vec<sock_filter>) {
    // SAFETY: the filter was made before the fork; loading it is two system calls.
    unsafe { command.pre_exec(move || load(&filter, 0)) };
}

pub fn load(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    match load_once(program, flags) {
        // Without CAP_SYS_ADMIN.
        Err(refused) if refused.raw_os_error() == Some(libc::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            load_once(program, flags)
        }
        result => result,
    }
}

fn load_once(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    let result = kiln::sandbox::seccomp::load_as_is(program, flags)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        // Listeners close on exec; a copy does not.
        // SAFETY: duplicates the descriptor just made.
        unsafe { libc::dup(result) };
    }
    Ok(())
}

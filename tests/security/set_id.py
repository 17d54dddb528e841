"""Tries to give files set-id bits and capabilities in a directory, by all calls that can.

Prints a line for each way: its name and what the file got.
"""

import ctypes
import os
import platform
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
FCHMODAT2, OPENAT2, SETXATTRAT = 452, 437, 463
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000


def call(number, *arguments):
    wrap = lambda one: ctypes.c_long(one) if isinstance(one, int) else one
    result = libc.syscall(ctypes.c_long(number), *map(wrap, arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def new(name):
    with open(name, "w") as file:
        file.write("#!/bin/sh\nid\n")
    return name


def by_chmod(name):
    os.chmod(new(name), 0o6755)


def by_link_of_proc(name):
    file = os.open(new(name), os.O_RDONLY)
    os.chmod(f"/proc/self/fd/{file}", 0o6755)


def by_fchmod(name):
    os.fchmod(os.open(new(name), os.O_RDONLY), 0o6755)


def by_fchmodat(name):
    directory = os.open(os.path.dirname(new(name)), os.O_RDONLY)
    os.chmod(os.path.basename(name), 0o6755, dir_fd=directory)


def by_fchmodat2(name):
    file = os.open(new(name), os.O_PATH)
    call(FCHMODAT2, file, b"", 0o6755, AT_EMPTY_PATH)


def by_open(name):
    os.umask(0)
    os.open(name, os.O_CREAT | os.O_WRONLY, 0o6755)


def by_openat2(name):
    os.umask(0)
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o6755, 0)
    call(OPENAT2, AT_FDCWD, name.encode(), ctypes.byref(how), 24)


def by_creat(name):
    os.umask(0)
    if ARM:
        return by_open(name)
    call(85, name.encode(), 0o6755)


def by_mknod(name):
    os.umask(0)
    os.mknod(name, stat.S_IFREG | 0o6755)


def by_unnamed(name):
    os.umask(0)
    file = os.open(os.path.dirname(name), os.O_TMPFILE | os.O_WRONLY, 0o6755)
    # Only with a directory is a link followed.
    root = os.open("/", os.O_RDONLY)
    os.link(f"/proc/self/fd/{file}", name, src_dir_fd=root, follow_symlinks=True)


def by_shared_descriptor(name):
    # The other process has the same descriptors.
    file = os.open(new(name), os.O_RDWR)
    if os.fork() == 0:
        try:
            os.fchmod(file, 0o6755)
        finally:
            os._exit(0)
    os.wait()


def by_setxattr(name):
    os.setxattr(new(name), "security.capability", CAPABILITY)


def by_fsetxattr(name):
    file = os.open(new(name), os.O_RDWR)
    os.setxattr(file, "security.capability", CAPABILITY)


def by_lsetxattr(name):
    os.setxattr(new(name), "security.capability", CAPABILITY, follow_symlinks=False)


def by_setxattrat(name):
    new(name)
    value = ctypes.create_string_buffer(CAPABILITY, len(CAPABILITY))
    words = (ctypes.c_uint64 * 2)(ctypes.addressof(value), len(CAPABILITY))
    path, attribute = name.encode(), b"security.capability"
    call(SETXATTRAT, AT_FDCWD, path, 0, attribute, ctypes.byref(words), 16)


def by_rename(name):
    elsewhere = os.path.join(os.environ["TMP_BUILD_DIR"], "tmp", os.path.basename(name))
    os.chmod(new(elsewhere), 0o6755)
    os.rename(elsewhere, name)


def by_link(name):
    elsewhere = os.path.join(os.environ["TMP_BUILD_DIR"], "tmp", os.path.basename(name))
    os.chmod(new(elsewhere), 0o6755)
    os.link(elsewhere, name)


def found(name):
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return "none"
    capable = "security.capability" in os.listxattr(name)
    return "set" if mode & 0o6000 or capable else "clear"


for way, work in list(globals().items()):
    if not way.startswith("by_"):
        continue
    name = os.path.join(os.path.abspath(sys.argv[1]), way)
    if os.fork() == 0:
        try:
            work(name)
        except OSError as error:
            print("failed", way, error.strerror, flush=True)
        os._exit(0)
    os.wait()
    print(sys.argv[2], way, found(name), flush=True)

"""Adds what a writer of images can get wrong to a tree, and fills the tree up.

Usage: tree_corpus.py TREE ENTRIES BYTES (see tree.sh). The same arguments give
the same corpus: contents come from a fixed generator, times are fixed.
"""

import os
import random
import socket
import stat
import struct
import sys

EPOCH = 1_700_000_000
WORDS = (
    "the disk engine writes each block once and leaves holes as holes because "
    "a file that nobody reads should cost nothing but its name and its inode "
    "static inline unsigned int return struct const void NULL error default "
    "/usr/share/doc copyright license warranty without conditions 0x1000 4096"
).split()


def acl(entries):
    """A POSIX ACL in the form that programs see."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


ACCESS = acl([
    (1, 6, 0xFFFFFFFF), (2, 4, 1001), (2, 6, 70000), (4, 4, 0xFFFFFFFF),
    (8, 5, 1002), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF),
])
DEFAULT = acl([
    (1, 7, 0xFFFFFFFF), (2, 7, 1001), (4, 5, 0xFFFFFFFF),
    (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF),
])
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


class Corpus:
    def __init__(self, root):
        self.root = os.fsencode(root)
        self.random = random.Random(20231114)

    def path(self, name):
        return os.path.join(self.root, os.fsencode(name))

    def directory(self, name, mode=0o755):
        os.makedirs(self.path(name), exist_ok=True)
        os.chmod(self.path(name), mode)

    def file(self, name, data=b"", mode=0o644):
        with open(self.path(name), "wb") as file:
            file.write(data)
        os.chmod(self.path(name), mode)

    def text(self, length):
        """Text that compresses about as well as programs do."""
        parts, size = [], 0
        while size < length:
            word = self.random.choice(WORDS)
            if self.random.random() < 0.25:
                word += "%x" % self.random.getrandbits(40)
            parts.append(word)
            size += len(word) + 1
        return " ".join(parts).encode()[:length]

    def special(self, name, mode, device=0):
        os.mknod(self.path(name), mode, device)

    def xattr(self, name, key, value):
        os.setxattr(self.path(name), key, value, follow_symlinks=False)


def hard_cases(corpus):
    corpus.directory("links")
    for inode in range(40):
        corpus.file("links/%02d-00" % inode, corpus.text(700 * inode))
        for link in range(1, 11):
            os.link(corpus.path("links/%02d-00" % inode), corpus.path("links/%02d-%02d" % (inode, link)))

    corpus.directory("sparse")
    with open(corpus.path("sparse/data-and-hole"), "wb") as file:
        file.write(corpus.text(100_000))
        file.seek(32 << 20)
        file.write(b"end")
    with open(corpus.path("sparse/hole-only"), "wb") as file:
        file.truncate(24 << 20)
    # The holes are punched by writing only every other block.
    with open(corpus.path("sparse/swiss"), "wb") as file:
        for extent in range(5000):
            file.seek(extent * 8192)
            file.write(b"%04096d" % extent)

    corpus.directory("names")
    corpus.file("names/" + "n" * 255, b"long name")
    corpus.file(b"names/not-utf8-\xff\xfe", b"bytes")
    corpus.file("names/new\nline", b"newline")
    corpus.file("names/ leading and trailing ", b"spaces")
    corpus.directory("deep/" + "/".join("level%02d" % level for level in range(30)))
    for length in (1, 59, 60, 1023, 4095):
        os.symlink("t" * length, corpus.path("names/link-%d" % length))

    corpus.directory("xattrs")
    corpus.file("xattrs/small", b"x")
    corpus.xattr("xattrs/small", "user.comment", b"in the inode")
    corpus.xattr("xattrs/small", "trusted.kiln", b"root only")
    corpus.xattr("xattrs/small", "security.kiln", b"security")
    corpus.file("xattrs/block", b"x")
    corpus.xattr("xattrs/block", "user.large", corpus.text(2000))
    shared = corpus.text(3500)
    for number in range(4):
        corpus.file("xattrs/shared-%d" % number, b"x")
        corpus.xattr("xattrs/shared-%d" % number, "user.shared", shared)
    corpus.directory("acl", 0o770)
    corpus.xattr("acl", "system.posix_acl_access", ACCESS)
    corpus.xattr("acl", "system.posix_acl_default", DEFAULT)
    for number in range(10):
        corpus.file("acl/file-%d" % number, b"acl", 0o640)
        corpus.xattr("acl/file-%d" % number, "system.posix_acl_access", ACCESS)
    corpus.file("capability", b"\x7fELF", 0o755)
    corpus.xattr("capability", "security.capability", CAPABILITY)

    corpus.directory("special")
    corpus.special("special/block", stat.S_IFBLK | 0o660, os.makedev(259, 1048575))
    corpus.special("special/char", stat.S_IFCHR | 0o666, os.makedev(4095, 70000))
    corpus.special("special/fifo", stat.S_IFIFO | 0o644)
    sock = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(corpus.path("special"))
    sock.bind("socket")
    sock.close()
    os.chdir(here)
    corpus.file("special/setuid", b"#!", 0o4755)
    corpus.file("special/setgid", b"#!", 0o2755)
    corpus.directory("special/sticky", 0o1777)
    corpus.file("special/large-ids", b"ids")
    os.chown(corpus.path("special/large-ids"), 3_000_000_000, 4_000_000_000)
    for year, seconds in ((1965, -157_766_400), (2100, 4_102_444_800)):
        corpus.file("special/from-%d" % year, b"time")
        nanoseconds = seconds * 10**9 + 123_456_789
        os.utime(corpus.path("special/from-%d" % year), ns=(nanoseconds, nanoseconds))

    corpus.directory("three-thousand")
    for number in range(3000):
        corpus.file("three-thousand/entry-%05d" % number)


def measure(root):
    entries, size, seen = 0, 0, set()
    for directory, directories, files in os.walk(os.fsencode(root)):
        entries += len(directories) + len(files)
        for name in files:
            about = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(about.st_mode) and about.st_ino not in seen:
                size += min(about.st_size, about.st_blocks * 512)
                if about.st_nlink > 1:
                    seen.add(about.st_ino)
    return entries, size


def fill(corpus, root, entries, size):
    """Adds directories of small files, then large ones, up to the totals."""
    have, used = measure(root)
    number = 0
    while have < entries:
        corpus.directory("fill/%04d" % (number // 40))
        if number % 40 == 0:
            have += 1
        length = int(corpus.random.lognormvariate(7.5, 1.8))
        data = corpus.text(min(length, 400_000))
        corpus.file("fill/%04d/%05d.txt" % (number // 40, number), data)
        used += len(data)
        have += 1
        number += 1
    number = 0
    block = corpus.text(4 << 20)
    while used < size:
        length = min(size - used, 6_000_000)
        data = b""
        while len(data) < length:
            at = corpus.random.randrange(len(block) // 2)
            data += block[at:at + 300_000] + corpus.random.randbytes(40_000)
        corpus.file("fill/large-%03d" % number, data[:length])
        used += length
        number += 1


def main():
    root, entries, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    corpus = Corpus(os.path.join(root, "opt/kiln-corpus"))
    corpus.directory("")
    hard_cases(corpus)
    fill(corpus, root, entries, size)
    for directory, directories, files in os.walk(corpus.root, topdown=False):
        for name in files + directories:
            path = os.path.join(directory, name)
            if not name.startswith(b"from-"):
                os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    print("%d entries, %d bytes of data" % measure(root))


main()

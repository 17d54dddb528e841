/* Makes the calls of 32-bit programs that the supervisor answers. Needs no C
 * library: each call is an `int $0x80`. Exits with the line of what is wrong. */

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

static int call(int number, int a, int b, int c, int d, int e)
{
    int result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "0"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory");
    return result;
}

static void number(int value)
{
    char text[16];
    int at = sizeof text;
    text[--at] = '\n';
    do
        text[--at] = '0' + value % 10;
    while (value /= 10);
    call(4, 1, (int)(text + at), sizeof text - at, 0, 0);
}

#define CALL(nr, a, b, c, d, e) call(nr, (int)(a), (int)(b), (int)(c), (int)(d), (int)(e))
#define CHECK(condition)                      \
    do                                        \
        if (!(condition)) {                   \
            CALL(4, 1, "WRONG line ", 11, 0, 0); \
            number(__LINE__);                 \
            CALL(1, 1, 0, 0, 0, 0);           \
        }                                     \
    while (0)

/* struct stat64 */
struct stat64 {
    u64 dev;
    u32 pad, ino32, mode, nlink, uid, gid;
    u64 rdev;
    u32 pad2;
    u64 size __attribute__((packed));
    u32 blksize;
    u64 blocks __attribute__((packed));
    u32 times[6];
    u64 ino;
} __attribute__((packed));

/* struct stat with ids of 16 bits */
struct stat32 {
    u32 dev, ino;
    u16 mode, nlink, uid, gid;
    u32 rdev, size, blksize, blocks, times[6], unused[2];
};

enum { CWD = -100 };

int main(int arguments)
{
    struct stat64 wide;
    struct stat32 narrow;
    u32 ids[3], groups[4];
    u16 short_ids[3], short_groups[4];
    u32 limit[2];
    u32 socket[3], name[3];
    struct { char name[16]; short flags; char rest[14]; } interface = {"lo", 1, {0}};
    struct { u16 family; char path[8]; } address = {1, "socket"};
    int fd;

    if (arguments > 1)
        return 0;
    CHECK(sizeof wide == 96);
    CALL(60, 022, 0, 0, 0, 0);
    fd = CALL(5, "file", 0102, 0640, 0, 0); /* open, O_CREAT | O_RDWR */
    CHECK(fd >= 0);
    CHECK(CALL(4, fd, "content", 7, 0, 0) == 7);
    CHECK(CALL(212, "file", 60000, 65533, 0, 0) == 0); /* chown32 */
    CHECK(CALL(195, "file", &wide, 0, 0, 0) == 0);     /* stat64 */
    CHECK(wide.uid == 60000);
    CHECK(wide.gid == 65533 && wide.size == 7 && (wide.mode & 07777) == 0640);
    CHECK(wide.nlink == 1 && wide.ino != 0 && (wide.mode & 0160000) == 0100000);
    CHECK(CALL(197, fd, &wide, 0, 0, 0) == 0 && wide.gid == 65533); /* fstat64 */
    CHECK(CALL(196, "file", &wide, 0, 0, 0) == 0 && wide.size == 7);  /* lstat64 */
    CHECK(CALL(300, CWD, "file", &wide, 0, 0) == 0 && wide.gid == 65533);
    CHECK(CALL(106, "file", &narrow, 0, 0, 0) == 0); /* stat */
    CHECK(narrow.uid == 60000 && narrow.gid == 65533 && narrow.size == 7);
    CHECK(CALL(108, fd, &narrow, 0, 0, 0) == 0 && narrow.mode == 0100640);

    CHECK(CALL(8, "short", 0600, 0, 0, 0) >= 0);          /* creat */
    CHECK(CALL(182, "short", 33, 44, 0, 0) == 0);         /* chown, 16 bits */
    CHECK(CALL(182, "short", 0xffff, 45, 0, 0) == 0);     /* only the group */
    CHECK(CALL(107, "short", &narrow, 0, 0, 0) == 0);     /* lstat */
    CHECK(narrow.uid == 33 && narrow.gid == 45);
    CHECK(CALL(207, fd, -1, -1, 0, 0) == 0);              /* fchown32 */
    CHECK(CALL(83, "nowhere", "link", 0, 0, 0) == 0);     /* symlink */
    CHECK(CALL(198, "link", 5, 6, 0, 0) == 0);            /* lchown32 */
    CHECK(CALL(298, CWD, "short", 34, -1, 0) == 0);       /* fchownat */
    CHECK(CALL(39, "directory", 0777, 0, 0, 0) == 0);     /* mkdir */
    CHECK(CALL(15, "directory", 0777, 0, 0, 0) == 0);     /* chmod */
    CHECK(CALL(14, "disk", 060600, 0x811, 0, 0) == 0);    /* mknod, a block device */
    CHECK(CALL(226, "file", "trusted.kiln", "x", 1, 0) == 0); /* setxattr */
    CHECK(CALL(229, "file", "trusted.kiln", &wide, 8, 0) == 1);
    CHECK(CALL(425, 1, 0, 0, 0, 0) < 0);                  /* io_uring_setup */

    socket[0] = 40, socket[1] = 1, socket[2] = 0;         /* AF_VSOCK, SOCK_STREAM */
    CHECK(CALL(102, 1, socket, 0, 0, 0) == -97);          /* socketcall: EAFNOSUPPORT */
    CHECK(CALL(102, 1, 16, 0, 0, 0) == -14);              /* EFAULT */
    socket[0] = 2, socket[1] = 02000002;                  /* AF_INET, SOCK_DGRAM, SOCK_CLOEXEC */
    fd = CALL(102, 1, socket, 0, 0, 0);
    CHECK(fd >= 0 && CALL(55, fd, 1, 0, 0, 0) == 1);      /* fcntl, F_GETFD */
    CHECK(CALL(6, fd, 0, 0, 0, 0) == 0);
    CHECK(CALL(310, 0x40000000, 0, 0, 0, 0) == 0);        /* unshare, CLONE_NEWNET */
    socket[1] = 2;
    fd = CALL(102, 1, socket, 0, 0, 0);
    CHECK(fd >= 0 && CALL(55, fd, 1, 0, 0, 0) == 0);
    CHECK(CALL(54, fd, 0x8913, &interface, 0, 0) == 0);   /* ioctl, SIOCGIFFLAGS */
    CHECK((interface.flags & 1) == 0);                    /* not the host's, which is up */
    CHECK(CALL(6, fd, 0, 0, 0, 0) == 0);
    socket[1] = 3, socket[2] = 255;                       /* SOCK_RAW */
    fd = CALL(102, 1, socket, 0, 0, 0);
    CHECK(fd >= 0 && CALL(6, fd, 0, 0, 0, 0) == 0);

    groups[0] = 50, groups[1] = 55;
    CHECK(CALL(206, 2, groups, 0, 0, 0) == 0);            /* setgroups32 */
    CHECK(CALL(210, 44, 44, 44, 0, 0) == 0);              /* setresgid32 */
    CHECK(CALL(208, 33, 33, 33, 0, 0) == 0);              /* setresuid32 */
    CHECK(CALL(199, 0, 0, 0, 0, 0) == 33 && CALL(24, 0, 0, 0, 0, 0) == 33);
    CHECK(CALL(201, 0, 0, 0, 0, 0) == 33 && CALL(49, 0, 0, 0, 0, 0) == 33);
    CHECK(CALL(200, 0, 0, 0, 0, 0) == 44 && CALL(47, 0, 0, 0, 0, 0) == 44);
    CHECK(CALL(202, 0, 0, 0, 0, 0) == 44 && CALL(50, 0, 0, 0, 0, 0) == 44);
    CHECK(CALL(209, ids, ids + 1, ids + 2, 0, 0) == 0 && ids[0] == 33 && ids[2] == 33);
    CHECK(CALL(171, short_ids, short_ids + 1, short_ids + 2, 0, 0) == 0 && short_ids[1] == 44);
    CHECK(CALL(205, 4, groups, 0, 0, 0) == 2 && groups[0] == 50 && groups[1] == 55);
    CHECK(CALL(80, 4, short_groups, 0, 0, 0) == 2 && short_groups[1] == 55);
    CHECK(CALL(102, 1, socket, 0, 0, 0) == -1);           /* EPERM for a raw one */
    CHECK(CALL(213, 0, 0, 0, 0, 0) == -1 && CALL(23, 0, 0, 0, 0, 0) == -1); /* EPERM */
    fd = CALL(295, CWD, "directory/user", 0102, 0666, 0); /* openat */
    CHECK(fd >= 0);
    CHECK(CALL(197, fd, &wide, 0, 0, 0) == 0 && wide.uid == 33 && wide.gid == 44);
    CHECK(CALL(296, CWD, "directory/below", 0755, 0, 0) == 0); /* mkdirat */
    CHECK(CALL(12, "directory", 0, 0, 0, 0) == 0);        /* chdir */
    socket[0] = 1, socket[1] = 1, socket[2] = 0;          /* AF_UNIX */
    name[0] = CALL(102, 1, socket, 0, 0, 0), name[1] = (u32)&address, name[2] = 9;
    CHECK(CALL(102, 2, name, 0, 0, 0) == 0);              /* bind */
    CHECK(CALL(196, "socket", &wide, 0, 0, 0) == 0 && wide.uid == 33 && wide.gid == 44);
    CHECK(CALL(191, 10, limit, 0, 0, 0) == 0 && limit[0] == 0xffffffff); /* ugetrlimit */
    return 0;
}

__asm__(".globl _start\n_start: mov (%esp), %eax\n push %eax\n call main\n"
        "mov %eax, %ebx\n mov $1, %eax\n int $0x80\n");

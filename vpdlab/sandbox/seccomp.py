"""The system calls that a program inside the wall cannot make: a seccomp filter as bytes.

The filter is classic BPF (an array of 8-byte instructions, see seccomp(2)) and needs no library. It denies what a
program that only computes never needs, and what has been used to escape sandboxes: sockets, tracing, bpf, io_uring,
keyrings, anonymous files, System V and POSIX queues, namespaces, mounts, kernel modules, clocks.

It also denies what two programs behind the same wall could use to signal each other through files that both can read
(locks, leases, file watches), and what they would take from other programs of the same user (inotify instances). The
only socket is the inherited channel for answers (`process.supervise` says why), which can be read, written and closed.
"""

from __future__ import annotations

import errno
import platform
import struct

from vpdlab.errors import UserError

# Name -> (x86_64, aarch64); None if the architecture does not have the call. Source: the kernel's unistd tables.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # sockets
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "sendmmsg": (307, 269), "recvmmsg": (299, 243), "shutdown": (48, 210),
    "getsockname": (51, 204), "getpeername": (52, 205), "setsockopt": (54, 208), "getsockopt": (55, 209),
    # other processes' memory and files
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438),
    # complex kernel subsystems
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_setup": (206, 0), "io_destroy": (207, 1), "io_submit": (209, 2),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "vmsplice": (278, 75), "remap_file_pages": (216, 234), "modify_ldt": (154, None), "personality": (135, 92),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "set_mempolicy_home_node": (450, 450),
    # memory that no limit counts
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "shmdt": (67, 197), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    # signals through files that all programs can read (open, locked), and the disks behind them
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "inotify_rm_watch": (255, 28), "flock": (73, 32), "sync": (162, 81), "syncfs": (306, 267),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "move_mount": (429, 429), "open_tree": (428, 428), "mount_setattr": (442, 442), "mknod": (133, None),
    "mknodat": (259, 33), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # the machine itself
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58), "iopl": (172, None),
    "ioperm": (173, None), "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None),
    "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "_sysctl": (156, None),
}  # fmt: skip
CLONE3 = 435
CLONE, IOCTL, FCNTL = (56, 220), (16, 29), (72, 25)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
NEW_NAMESPACE = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
TERMINAL = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX inject terminal input
SOCKETS = 0x8900  # SIOC...: a socket from outside belongs to the host's network, and would reveal its addresses
# F_GETLK, SETLK, SETLKW; F_OFD_GETLK, SETLK, SETLKW; F_SETLEASE, GETLEASE; F_NOTIFY
LOCKS = (5, 6, 7, 36, 37, 38, 1024, 1025, 1026)
NEWEST = 450  # calls added to the kernel later answer "no such call", as on an older kernel
AUDIT = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column of the tables above

LOAD, EQUAL, GREATER, ANY, RETURN, AND = 0x20, 0x15, 0x25, 0x45, 0x06, 0x54  # ld [k]; jeq, jgt, jset #k; ret; and #k
NUMBER, ARCHITECTURE, FIRST, SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data; low half of arguments 0, 1
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def filter_bytes(machine: str = "") -> bytes:
    """The filter for this machine's architecture, in the format of `bwrap --seccomp`.

    Raises:
        UserError: for an architecture that is not in the table.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT:
        raise UserError(f"no system-call filter for {machine}: run model-written code on {' or '.join(AUDIT)}")
    audit, column = AUDIT[machine]
    refuse, missing = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
    code = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]

    def when(test: int, value: int, answer: int) -> None:
        code.extend([(test, 0, 1, value), (RETURN, 0, 0, answer)])

    def argument(number: int, offset: int, test: int, values: tuple[int, ...], group: int = -1) -> None:
        """Deny call `number` if the argument at `offset` matches one of `values`, or is in group..group + 255."""
        code.append((EQUAL, 0, 2 * len(values) + 2 + 3 * (group >= 0), number))
        code.append((LOAD, 0, 0, offset))
        for value in values:
            when(test, value, refuse)
        if group >= 0:
            code.append((AND, 0, 0, 0xFFFFFF00))
            when(EQUAL, group, refuse)
        code.append((RETURN, 0, 0, ALLOW))

    # ENOSYS for calls newer than the table, and for x86's second numbering of the same calls (bit 30). clone3 has its
    # flags in memory, where no filter can read them; on ENOSYS the C library falls back to clone.
    when(GREATER, NEWEST, missing)
    when(EQUAL, CLONE3, missing)
    argument(CLONE[column], FIRST, ANY, (NEW_NAMESPACE,))
    argument(IOCTL[column], SECOND, EQUAL, TERMINAL, SOCKETS)
    argument(FCNTL[column], SECOND, EQUAL, LOCKS)
    for pair in DENIED.values():
        if (number := pair[column]) is not None:
            when(EQUAL, number, refuse)
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)

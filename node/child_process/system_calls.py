"""The system calls of a process that reads foreign bytes: those listed here, and no other.

A seccomp filter (https://docs.kernel.org/userspace-api/seccomp_filter.html) in classic BPF, made without a library, for
x86-64 and 64-bit ARM. The list is what conversions, decoders and writers were seen to call under strace, and what the
C libraries of other systems call in their place.

A call that is not listed fails and is not answered by a kill: a library that asks for something harmless can do without
it. It fails with EPERM, or with ENOSYS if it is newer than Linux 5.0: C libraries then fall back to an older one.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machines with a filter, and what the kernel calls them (include/uapi/linux/audit.h)."""

_Numbers = tuple[int | None, int | None]  # on x86-64, on 64-bit ARM

_ALLOWED: dict[str, _Numbers] = {
    # Files: Landlock decides which. No links, no rights, owners, times or attributes of files.
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "open": (2, None), "openat": (257, 56), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78),
    "getcwd": (79, 17), "getdents64": (217, 61), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "fsync": (74, 82), "fdatasync": (75, 83), "fadvise64": (221, 223), "umask": (95, 166), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "sendfile": (40, 71), "copy_file_range": (326, 285),
    # Pipes to the keeper and to assistants
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "wait4": (61, 260),
    "waitid": (247, 95),
    # Memory of its own
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233),
    # Threads, which numpy, SimpleITK and the codecs start; `clone` is below
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "gettid": (186, 178),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "membarrier": (324, 283),
    "sigaltstack": (131, 132), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94),
    # What it is, and what time it is
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153),
    "time": (201, None), "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "getrandom": (318, 278),
}  # fmt: skip

_OWN_PROCESS = -1  # stands for its number
_PTHREAD = 0x003D0F00
"""CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM, _SETTLS, _PARENT_SETTID and _CHILD_CLEARTID: all of a thread, and
nothing of a process or namespace. glibc passes these, musl _DETACHED (1 << 22) as well."""

_ALLOWED_WITH: dict[str, tuple[_Numbers, int, tuple[int, ...]]] = {
    # Position of an argument, and the values of its lower 32 bits that are allowed
    "clone": ((56, 220), 0, (_PTHREAD, _PTHREAD | 1 << 22)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL and F_DUPFD_CLOEXEC. F_SETOWN and F_SETSIG would send signals to any process of
    # the user, F_NOTIFY watches folders, and F_SETFL changes pipes under the feet of others.
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 1030)),
    # TCGETS and TCGETS2, by which `isatty` asks, and FIONCLEX and FIOCLEX. No FIOASYNC, no TIOCSTI.
    "ioctl": ((16, 29), 1, (0x5401, 0x802C542A, 0x5450, 0x5451)),
    # PR_SET_NAME, PR_GET_NAME, PR_GET_NO_NEW_PRIVS, and PR_SET_VMA: names of threads and of memory
    "prctl": ((157, 167), 0, (15, 16, 39, 0x53564D41)),
    # `abort` and `raise` signal the process itself; its own limits
    "kill": ((62, 129), 0, (_OWN_PROCESS,)),
    "tgkill": ((234, 131), 0, (_OWN_PROCESS,)),
    "prlimit64": ((302, 261), 0, (0, _OWN_PROCESS)),
}

_FIRST_UNKNOWN = 424
"""Calls from here on have the same number on every machine, and came after Linux 5.0."""
_X32 = 0x40000000

# include/uapi/linux/{seccomp,filter}.h
_ALLOW, _DENY, _UNKNOWN, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


def filter_program(machine: str, process: int) -> bytes:
    """Return the filter for a process with this number, on one of the machines of `AUDIT_ARCHITECTURE`."""
    return b"".join(_instructions(machine, process))


def _instructions(machine: str, process: int) -> Iterator[bytes]:
    """Yield instructions; each jump is within its group."""
    yield _step(_LOAD, _ARCHITECTURE_AT)
    yield _step(_EQUAL, AUDIT_ARCHITECTURE[machine], 1, 0)
    yield _step(_RETURN, _KILL)
    yield _step(_LOAD, _NUMBER_AT)
    column = list(AUDIT_ARCHITECTURE).index(machine)
    for numbers in _ALLOWED.values():
        if (number := numbers[column]) is not None:
            yield _step(_EQUAL, number, 0, 1)
            yield _step(_RETURN, _ALLOW)
    for numbers, position, values in _ALLOWED_WITH.values():
        if (number := numbers[column]) is not None:
            yield from _with_argument(
                number, position, [process if value == _OWN_PROCESS else value for value in values]
            )
    yield _step(_AT_LEAST, _X32, 2, 0)  # calls of x32 have numbers of their own
    yield _step(_AT_LEAST, _FIRST_UNKNOWN, 0, 1)
    yield _step(_RETURN, _UNKNOWN)
    yield _step(_RETURN, _DENY)


def _with_argument(number: int, position: int, values: Iterable[int]) -> Iterator[bytes]:
    """Yield: if the call is this one, allow it where its argument is one of the values, else deny it."""
    tests = [test for value in values for test in (_step(_EQUAL, value, 0, 1), _step(_RETURN, _ALLOW))]
    yield _step(_EQUAL, number, 0, len(tests) + 2)
    yield _step(_LOAD, _ARGUMENTS_AT + 8 * position)
    yield from tests
    yield _step(_RETURN, _DENY)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)

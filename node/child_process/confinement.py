"""What a process that reads foreign bytes may still do, as far as the kernel can forbid it the rest.

- ``no_new_privs``: no program that it starts gets more rights.
- Landlock (Linux 5.13, https://docs.kernel.org/userspace-api/landlock.html): of all files, it reads the program's own
  and those that it was given, and writes where it was told to.
- seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html): no sockets, no new processes or programs, no
  signals to others, no change of rights or owners of files.
- Resource limits: no core dumps, few open files, no file longer than its memory.

Landlock and seccomp are called without a library, on x86-64 and 64-bit ARM. If the kernel, or the container around the
node, lacks one of them, the others hold alone; `offered` returns which of them hold.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MAX_OPEN_FILES = 256

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446  # on every architecture

# include/uapi/linux/landlock.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULE = struct.Struct("<Qi")
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(1, 6))
_MAKE_DIR, _MAKE_REG, _TRUNCATE = 1 << 7, 1 << 8, 1 << 14
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights to files that an ABI knows; all are denied where no rule grants them."""
_TCP = 0b11  # bind and connect, from ABI 4
_SCOPES = 0b11  # abstract sockets and signals, from ABI 6

_READS_FILE = _READ_FILE
_READS_FOLDER = _READ_FILE | _READ_DIR
_WRITES_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
_WRITES_FOLDER = _WRITES_FILE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG

# include/uapi/linux/{seccomp,filter,audit}.h
_SECCOMP_MODE_FILTER = 2
_ALLOW, _DENY, _UNKNOWN, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_NEVER: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "bind": 49, "listen": 50,
        "socketpair": 53, "accept4": 288, "sendmmsg": 307,
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "process_madvise": 440,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424, "pidfd_open": 434,
        "pidfd_getfd": 438,
        "link": 86, "symlink": 88, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "mknod": 133,
        "mknodat": 259, "fchownat": 260, "linkat": 265, "symlinkat": 266, "fchmodat": 268, "fchmodat2": 452,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
        "fremovexattr": 199, "setxattrat": 463, "removexattrat": 466,
        "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
        "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "mq_open": 240,
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
        "open_by_handle_at": 304, "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
        "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117,
        "setresgid": 119, "setfsuid": 122, "setfsgid": 123, "capset": 126,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249, "personality": 135,
        "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
        "reboot": 169, "swapon": 167, "swapoff": 168, "sethostname": 170, "iopl": 172, "ioperm": 173,
        "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305, "quotactl": 179, "acct": 163,
        "setpriority": 141, "ioprio_set": 251, "fanotify_init": 300,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "sendto": 206,
        "sendmsg": 211, "accept4": 242, "sendmmsg": 269,
        "execve": 221, "execveat": 281,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "process_madvise": 440,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424, "pidfd_open": 434,
        "pidfd_getfd": 438,
        "mknodat": 33, "symlinkat": 36, "linkat": 37, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55,
        "fchmodat2": 452,
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
        "setxattrat": 463, "removexattrat": 466,
        "utimensat": 88,
        "shmget": 194, "shmctl": 195, "shmat": 196, "semget": 190, "msgget": 186, "mq_open": 180,
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
        "open_by_handle_at": 265, "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
        "setregid": 143, "setgid": 144, "setreuid": 145, "setuid": 146, "setresuid": 147, "setresgid": 149,
        "setfsuid": 151, "setfsgid": 152, "setgroups": 159, "capset": 91,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 280, "perf_event_open": 241,
        "userfaultfd": 282, "keyctl": 219, "add_key": 217, "request_key": 218, "personality": 92,
        "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294,
        "reboot": 142, "swapon": 224, "swapoff": 225, "sethostname": 161,
        "settimeofday": 170, "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266, "quotactl": 60, "acct": 89,
        "setpriority": 140, "ioprio_set": 30, "fanotify_init": 262,
    },
}  # fmt: skip
"""System calls that are denied, by machine."""

_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_ONLY_ITSELF = {
    "x86_64": {"kill": 62, "tkill": 200, "tgkill": 234},
    "aarch64": {"kill": 129, "tkill": 130, "tgkill": 131},
}
"""System calls whose first argument must be the number of the process itself; `abort` needs them."""
_PRLIMIT = {"x86_64": 302, "aarch64": 261}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_ADD_RULE = ctypes.c_long(_LANDLOCK_ADD_RULE)


@dataclass(frozen=True, slots=True)
class Offered:
    """What the kernel offers to this process.

    `landlock`: ABI version; 0 without Landlock.
    """

    landlock: int
    seccomp: bool

    def __str__(self) -> str:
        files = f"files by Landlock {self.landlock}" if self.landlock else "files not confined: no Landlock"
        calls = "system calls by seccomp" if self.seccomp else "system calls not confined: no seccomp"
        return f"{files}, {calls}"


@cache
def offered() -> Offered:
    """Ask the kernel what it offers."""
    try:
        abi = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        abi = 0
    try:  # no filter at all: a kernel that knows filters fails with EFAULT, another one with EINVAL
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None)
        filters = False
    except OSError as error:
        filters = error.errno == errno.EFAULT
    return Offered(abi, filters and platform.machine() in _AUDIT)


def tried() -> Offered:
    """Return what `offered` says if it can be had, else nothing; tried in a process that ends at once.

    This process must have no other thread.
    """
    _program()  # found once for all processes
    process = os.fork()
    if process == 0:
        status = 1
        try:
            confine(offered(), (), (), 1 << 20)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(process, 0)
    return Offered(0, False) if status else offered()


def confine(means: Offered, reads: Iterable[Path], writes: Iterable[Path], max_file_bytes: int) -> None:
    """Deny this process for ever what it does not need; it must have no other thread.

    `reads, writes`: see `node.child_process.serving.Apart`. What does not exist is left out; `max_file_bytes`: length
    of the longest file that it may write. Raises OSError: the kernel refused what it offers.
    """
    _limit_hard(resource.RLIMIT_CORE, 0)
    _limit_hard(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _limit_hard(resource.RLIMIT_FSIZE, max_file_bytes)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if means.landlock:
        _restrict_files(means.landlock, reads, writes)
    if means.seccomp:
        _filter_calls(platform.machine())


def end_with_parent(parent: int, number: int) -> None:
    """Have the kernel send a signal to this process when its parent ends, or end it if that has happened."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of the children of children that end: they are waited for here, and not by the first process.

    In a container, that may be the node.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _limit_hard(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (limit, limit))


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    wide = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
    return _checked(_libc.syscall(ctypes.c_long(number), *wide))


def _prctl(option: int, *arguments: Any) -> None:
    wide = [ctypes.c_ulong(argument) if isinstance(argument, int) else argument for argument in arguments]
    _checked(_libc.prctl(option, *wide, *[ctypes.c_ulong(0)] * (4 - len(wide))))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# Landlock


@cache
def _program() -> tuple[Path, ...]:
    """Return the folders that hold the program: modules and libraries that are loaded late."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    places = {Path(sysconfig.get_path(name)) for name in names}
    places |= {Path(module) for module in sys.path if Path(module).name in ("site-packages", "dist-packages")}
    places |= {Path(sys.base_prefix, "lib"), Path(__file__).resolve().parents[1]}
    places |= {Path(folder) for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")}
    return tuple(places)


def _restrict_files(abi: int, reads: Iterable[Path], writes: Iterable[Path]) -> None:
    handled = _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]
    attributes = struct.pack("<QQQ", handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    attributes = attributes[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in _program():
            _allow(ruleset, path, handled & _READS_FILE, handled & _READS_FOLDER)
        _allow(ruleset, Path(os.devnull), handled & _WRITES_FILE, 0)
        _allow(ruleset, Path("/dev/urandom"), handled & _READS_FILE, 0)
        for path in reads:
            _allow(ruleset, path, handled & _READS_FILE, 0)
        for path in writes:
            _allow(ruleset, path, handled & _WRITES_FILE, handled & _WRITES_FOLDER)
        _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, of_file: int, of_folder: int) -> None:
    """Allow a process these rights to a file, or below a folder: one call for each of 20,000 files of a series."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it does not exist, or may not be reached anyway
        return
    try:
        rights = of_folder if stat.S_ISDIR(os.fstat(descriptor).st_mode) else of_file
        if rights:
            rule = _RULE.pack(rights, descriptor)
            _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)  # where it fails, nothing is allowed
    finally:
        os.close(descriptor)


# seccomp


def _filter_calls(machine: str) -> None:
    program = b"".join(_instructions(machine))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    loaded = Program(len(program) // 8, program)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded))


def _instructions(machine: str) -> Iterable[bytes]:
    """Yield a filter in classic BPF; each jump is within its group of instructions."""
    own = os.getpid()
    yield _step(_LOAD, _ARCHITECTURE_AT)
    yield _step(_EQUAL, _AUDIT[machine], 1, 0)
    yield _step(_RETURN, _KILL)
    yield _step(_LOAD, _NUMBER_AT)
    if machine == "x86_64":  # calls of x32 have numbers of their own
        yield _step(_AT_LEAST, _X32, 0, 1)
        yield _step(_RETURN, _DENY)
    for number in _NEVER[machine].values():
        yield _step(_EQUAL, number, 0, 1)
        yield _step(_RETURN, _DENY)
    yield _step(_EQUAL, _CLONE3, 0, 1)  # its flags are out of reach; the C library falls back to clone
    yield _step(_RETURN, _UNKNOWN)
    yield from _if_called(_CLONE[machine], _step(_HAS_BITS, _CLONE_THREAD, 0, 1))
    for number in _ONLY_ITSELF[machine].values():
        yield from _if_called(number, _step(_EQUAL, own, 0, 1))
    yield from _if_called(_PRLIMIT[machine], _step(_EQUAL, own, 1, 0), _step(_EQUAL, 0, 0, 1))
    yield _step(_RETURN, _ALLOW)


def _if_called(number: int, *tests: bytes) -> Iterable[bytes]:
    """Yield: if the call is this one, allow it where its first argument passes the tests, else deny it."""
    yield _step(_EQUAL, number, 0, len(tests) + 3)
    yield _step(_LOAD, _FIRST_ARGUMENT_AT)
    yield from tests
    yield _step(_RETURN, _ALLOW)
    yield _step(_RETURN, _DENY)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)

"""What a process that reads foreign bytes may still do, as far as the kernel can forbid it the rest.

- ``no_new_privs``: no program that it starts gets more rights.
- Landlock (Linux 5.13, https://docs.kernel.org/userspace-api/landlock.html): of all files, it reads the program's own
  and those that it was given, and writes to the folder that it was given.
- seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html): some calls, by a filter in classic BPF.
- Namespaces (https://man7.org/linux/man-pages/man7/namespaces.7.html): it sees no process but those of its keeper's
  work, and has no network, even where another measure is missing.
- Resource limits: no core dumps, few open files, no file longer than its memory; no capabilities.

All are called without a library, Landlock and seccomp on x86-64 and 64-bit ARM. If the kernel, or the container around
the node, lacks one of them, the others hold alone; `offered` and `offers_namespaces` return which of them hold.
"""

import ctypes
import errno
import os
import platform
import resource
import stat
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from node.files.durable import IS_LINUX

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

_WRITES = (_FILE_RIGHTS[3] & ~1) ^ _READS_FOLDER
"""All rights but to read and to execute."""

_SECCOMP_MODE_FILTER = 2  # include/uapi/linux/seccomp.h

# include/uapi/linux/sched.h
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = (1 << bit for bit in range(27, 31))

# include/uapi/linux/capability.h
_CAPABILITY_VERSION = 0x20080522
_CAPABILITIES = struct.Struct("=6I")  # effective, permitted, inheritable; then the upper bits of these
_OPENS_ANY_FILE = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

_libc = ctypes.CDLL(None, use_errno=True)
if IS_LINUX:
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
    if not IS_LINUX:
        return Offered(0, False)
    try:
        abi = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        abi = 0
    try:  # no filter at all: a kernel that knows filters fails with EFAULT, another one with EINVAL
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None)
        filters = False
    except OSError as error:
        filters = error.errno == errno.EFAULT
    return Offered(abi, filters and platform.machine() in AUDIT_ARCHITECTURE)


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


def described() -> str:
    """Tell an operator what holds here, and what does not."""
    if not IS_LINUX:
        return "not confined on this system"
    if offers_namespaces():
        return f"{offered()}, own PID and network namespaces"
    return f"{offered()}, no PID and network namespaces of their own: the kernel or the container forbids them"


@cache
def offers_namespaces() -> bool:
    """Ask the kernel whether `leave_namespaces` would succeed; asked in another program, because it is for ever."""
    program = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({_namespaces()}))"
    try:
        return not subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False).returncode
    except OSError:
        return False


def confine(means: Offered, reads: Iterable[Path], writes: Iterable[Path], max_file_bytes: int) -> None:
    """Deny this process for ever what it does not need; it must have no other thread.

    `reads, writes`: see `node.children.serving.Apart`. What does not exist is left out; `max_file_bytes`: length
    of the longest file that it may write. Raises OSError: the kernel refused what it offers.
    """
    _limit_hard(resource.RLIMIT_CORE, 0)
    _limit_hard(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _limit_hard(resource.RLIMIT_FSIZE, max_file_bytes)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    if means.landlock:
        _restrict_files(means.landlock, reads, writes)
    if means.seccomp:
        _filter_calls(platform.machine())


def confine_writes(places: Iterable[Path]) -> None:
    """Deny this process, and those that it starts, for ever to write elsewhere than there; where there is Landlock.

    This process must have no other thread. Raises OSError: the kernel refused what it offers.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if abi := offered().landlock:
        handled = _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))] & _WRITES
        with _ruleset(struct.pack("<Q", handled)) as ruleset:
            for path in (Path(os.devnull), *places):
                _allow(ruleset, path, handled & _WRITES_FILE, handled)


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
    with _ruleset(attributes[: 8 if abi < 4 else 16 if abi < 6 else 24]) as ruleset:
        for path in _program():
            _allow(ruleset, path, handled & _READS_FILE, handled & _READS_FOLDER)
        _allow(ruleset, Path(os.devnull), handled & _WRITES_FILE, 0)
        _allow(ruleset, Path("/dev/urandom"), handled & _READS_FILE, 0)
        for path in reads:
            _allow(ruleset, path, handled & _READS_FILE, 0)
        for path in writes:
            _allow(ruleset, path, handled & _WRITES_FILE, handled & _WRITES_FOLDER)


@contextmanager
def _ruleset(attributes: bytes) -> Iterator[int]:
    """Yield a ruleset, to which this process is bound at the end of the block."""
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        yield ruleset
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


# Namespaces and capabilities


def leave_namespaces() -> bool:
    """Have the processes that this one starts live in a PID namespace of their own, without network; itself, too.

    The first of them must stay: the kernel ends all others with it. This process must have no other thread. It needs a
    user namespace for that, in which it has no more rights to files than before, unless it may open the files of other
    users: it could not do that any more.

    Return whether the kernel, and the container around the node, allow it.
    """
    return bool(_libc.unshare(_namespaces()) == 0)


def _namespaces() -> int:
    flags = _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
    return flags if _capabilities()[0] & _OPENS_ANY_FILE else flags | _CLONE_NEWUSER


def _capabilities() -> tuple[int, ...]:
    found = ctypes.create_string_buffer(_CAPABILITIES.size)
    _checked(_libc.capget(struct.pack("=Ii", _CAPABILITY_VERSION, 0), found))
    return _CAPABILITIES.unpack(found.raw)


def _drop_capabilities() -> None:
    """Keep the right to open files of other users at most, which a conversion by root needs."""
    effective, permitted, *_ = _capabilities()
    capabilities = _CAPABILITIES.pack(effective & _OPENS_ANY_FILE, permitted & _OPENS_ANY_FILE, 0, 0, 0, 0)
    _libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), capabilities)  # a filter around the node may refuse it


# The system calls of a process that reads foreign bytes: those listed here, and no other. The list is what conversions,
# decoders and writers were seen to call under strace, and what the C libraries of other systems call in their place. A
# call that is not listed fails and is not answered by a kill: a library that asks for something harmless can do without
# it. It fails with EPERM, or with ENOSYS if it is newer than Linux 5.0: C libraries then fall back to an older one.

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
    # abort and raise signal the process itself; its own limits
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


def _filter_calls(machine: str) -> None:
    program = filter_program(machine, os.getpid())

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    loaded = Program(len(program) // 8, program)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded))


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

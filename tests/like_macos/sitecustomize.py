"""Takes away from Python what it has on Linux and not on macOS: a folder for PYTHONPATH, so that children lack it too.

Whatever else differs on a Mac, its file systems first, is not tried by this.
"""

import ctypes
import errno
import fcntl
import os
import resource
import select
import socket
import sys
import time

ABSENT = {
    os: "O_DIRECT O_PATH O_TMPFILE POSIX_FADV_DONTNEED RWF_NOWAIT copy_file_range eventfd fdatasync fork memfd_create "
    "pidfd_open posix_fadvise posix_fallocate sched_getaffinity sched_setaffinity splice unshare",
    fcntl: "F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW F_SETPIPE_SZ",
    select: "POLLRDHUP",
    socket: "SOCK_CLOEXEC SOCK_NONBLOCK SO_PEERCRED TCP_INFO TCP_QUICKACK TCP_USER_TIMEOUT",
    time: "CLOCK_BOOTTIME",
}
OF_LIBC = {"capget", "capset", "mallopt", "prctl", "renameat2", "syncfs", "syscall", "unshare"}
OPENING = ("open", "os.listdir", "os.scandir", "socket.bind", "socket.connect")

for module, names in ABSENT.items():
    for name in set(names.split()).intersection(vars(module)):
        delattr(module, name)


class _Loaded(ctypes.CDLL):
    def __getattr__(self, name: str) -> object:
        if self._name is None and name in OF_LIBC:
            raise AttributeError(name)
        return super().__getattr__(name)


def _without_proc(event: str, arguments: tuple[object, ...]) -> None:
    if event in OPENING and str(arguments[event.startswith("socket")]).startswith("/proc"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _setrlimit(kind: int, limits: tuple[int, int]) -> None:
    if kind == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    _set_limit(kind, limits)


ctypes.CDLL, _set_limit, resource.setrlimit = _Loaded, resource.setrlimit, _setrlimit
sys.addaudithook(_without_proc)

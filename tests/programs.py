"""Programs of the system that tests run as peers."""

import secrets
import shutil
import socket
import sys
from pathlib import Path

import pytest

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/usr/sbin:/bin"
"""Where Debian's programs are; in an active virtual environment, pynetdicom's of the same names come first."""


DCM2NIIX = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
"""Beside the interpreter, where the extra `test` puts it, else on the PATH; None without it."""


_FIRST_OF_THE_SYSTEM = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])


def free_port() -> int:
    """A port for a peer that must be told its port before it starts.

    It is none of those from which the system takes a port for whoever asks for any: another test may get that one
    before the peer listens.
    """
    while True:
        port = 10_000 + secrets.randbelow(_FIRST_OF_THE_SYSTEM - 10_000)  # hypothesis seeds `random`
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def needs(program: str, package: str = "dcmtk") -> str:
    """The path of a program of Debian, not one of the same name of a Python package; skips the test without it."""
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")
    return path

"""A machine of its own for somebody who types the commands of the documents, as root.

It is a root file system in a folder, in namespaces for mounts, network, and processes: ports, `/opt`, `/etc`, `/var`
and `/backup` are its own, and everything that runs there ends with it. The folders of programs and the checkout are
those of this machine, to be read. Names of documents such as ``pacs.example.org`` are its own address. What stands in
for programs is in tests/documents/stand_ins.py.

    @pytest.mark.runs("docs/upgrade.md")
    def test_...(machine: Machine) -> None:
        machine.follow("docs/upgrade.md", "How to upgrade")

`follow` types what the blocks have (tests/documents/blocks.py), `type` one command, and `run` what no document says. A
typed command fails unless it exits with 0 and writes nothing to standard error. The shell stays the same, so variables
and folders stay. A test that `runs` documents fails if it has not typed every block of them that has no mark.
"""

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.documents import stand_ins
from tests.documents.blocks import OPTIONAL, PROJECT, Command, typed
from tests.waiting import until

STAND_INS = (stand_ins.sudo, stand_ins.systemctl, stand_ins.journalctl, stand_ins.python3, stand_ins.voxelnode)
CLONE = "/root/voxelnode"
"""Where the reader has cloned the project; its files are those of the checkout."""

NAMES = "pacs db db1 db2 s3 research pipeline cloud"
FOLDERS = "old proc tmp run opt srv stand-ins"
OF_ETC = "passwd group shadow gshadow login.defs default ssl ld.so.cache nsswitch.conf"
SECONDS = 120.0

CURL = "silent\nshow-error\nfail\n"
"""What each `curl` is told beside: no progress, which it writes to standard error, and exit 22 if it is refused."""

VARYING = re.compile(
    r"\b2\.25\.\d+|(?<=/)\d+-[0-9a-f]{8}(?=/)|\b[\d.]+ s\b|\btest-[\d.]+|127\.0\.0\.1:\d+"
    r"|\b20\d\d-\d\d-\d\d \d\d:\d\d UTC|\b[0-9a-f]{32}\b|until 20[\d-]+"
)

SET_UP = r"""
root=$1 python=$2 preloaded=$3 clone=$4 libraries=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
for path in "$@"; do mkdir -p ".$path"; mount --rbind "$path" ".$path"; done
mount -o remount,bind,ro ".$clone"
mount -t proc proc proc
mount -t tmpfs tmpfs tmp
mkdir tmp/upper tmp/work
mount -t overlay -o "lowerdir=$libraries,upperdir=tmp/upper,workdir=tmp/work" overlay packages/site-packages
rm -rf packages/site-packages/{voxelnode-*,_editable_impl_voxelnode*,*.pth}
mount -t tmpfs tmpfs tmp
pivot_root . old
umount -l /old
"$python" -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 65))'
hash -r
cd
set +eu
if [ -n "$preloaded" ]; then
    (cd "$clone" && exec env LD_PRELOAD= "$python" -m tests.preloaded "$FORKER" </dev/null >/dev/null) &
fi
exec {FORKER}>&-
while read -r -d '' typed; do
    eval "$typed" </dev/null >/run/stdout 2>/run/stderr
    echo $? >&"$REPORTS"
done
"""
# `preloaded` is empty, or asks for the process that forks each `voxelnode`.


Step = Callable[[Command], object]


def comparable(lines: Iterable[str]) -> list[str]:
    """Lines in the order of the alphabet, without what differs: UIDs, times, seconds, spaces."""
    return sorted(" ".join(VARYING.sub("_", line).split()) for line in lines)


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return a command with values in place of its words in capitals; in `values`, STUDY-UID comes before UID."""
    for word, value in values.items() if text.startswith(("voxelnode", "curl")) else ():
        text = re.sub(rf"\b{word}\b", value, text)
    return text


class Machine:
    """One machine, in a folder that it makes.

    `preloaded`: `voxelnode` on the path is that of the checkout, as in an active environment, and starts at once.
    `environment`: more variables of the shell.
    """

    def __init__(self, folder: Path, preloaded: bool = False, **environment: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("a machine of its own needs root")
        self.folder, self._preloaded = folder, preloaded
        self._environment = {
            "PATH": "/stand-ins:/usr/local/bin:/usr/bin:/usr/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8",
            **{f"PIP_{name}": "1" for name in ("NO_INDEX", "NO_DEPS", "NO_CACHE_DIR", "DISABLE_PIP_VERSION_CHECK")},
            "PIP_NO_BUILD_ISOLATION": "0", "PIP_ROOT_USER_ACTION": "ignore", "VOXELNODE_SERIES__QUIET_SECONDS": "1",
            **environment,
        }  # fmt: skip
        self._background: dict[str, int] = {}
        self.typed: set[str] = set()
        """Commands of documents that were followed."""

    def __truediv__(self, path: str) -> Path:
        """A path of the machine, as seen from outside."""
        return self.folder / path.lstrip("/")

    def __enter__(self) -> Self:
        before = os.umask(0o022)  # a node within this process may have taken away what others may read
        self._furnish()
        os.umask(before)
        python = Path(sys.prefix) / "bin" / "python"
        [libraries] = Path(sys.prefix).glob("lib/python*/site-packages")
        preloaded = "preloaded" if self._preloaded else ""
        shared = [path for path in ("/usr", "/dev", "/sys") if Path(path).is_dir()]
        shared += [str(path) for path in (sys.base_prefix, sys.prefix, PROJECT) if not str(path).startswith("/usr/")]
        self._orders, its_orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reports, its_reports = os.pipe()
        passed = {"ORDERS": self._orders.fileno(), "FORKER": its_orders.fileno(), "REPORTS": its_reports}
        self._shell = subprocess.Popen(
            [
                *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "bash", "-euc", SET_UP, "machine"),
                *(self.folder, python, preloaded, PROJECT, libraries, *dict.fromkeys(shared)),
            ],
            env={**self._environment, **{name: str(number) for name, number in passed.items()}},
            stdin=subprocess.PIPE, pass_fds=list(passed.values()), umask=0o022,
        )  # fmt: skip
        os.close(its_reports)
        its_orders.close()
        self._reports = os.fdopen(reports)
        if self._preloaded:
            self._orders.settimeout(SECONDS)
            self._orders.recv(1)
        self.type(f"cd {CLONE}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shell.kill()
        self._shell.communicate()
        self._reports.close()
        self._orders.close()

    def _furnish(self) -> None:
        """Make the folders of the root file system, its accounts, and what stands in for programs."""
        for name in ("var/lib", "packages/site-packages", f".{CLONE}", "etc/systemd/system", *FOLDERS.split()):
            (self.folder / name).mkdir(parents=True)
        for path in Path("/").iterdir():
            if path.is_symlink():
                (self / str(path)).symlink_to(path.readlink())
        for name in OF_ETC.split():
            if (path := Path("/etc", name)).is_dir():
                shutil.copytree(path, self / str(path), symlinks=True)
            elif path.exists():
                shutil.copy(path, self / str(path))
        own = " ".join(f"{name}.example.org" for name in NAMES.split())
        (self / "/etc/hosts").write_text(f"127.0.0.1 localhost {own}\n")
        (self / "/root/.curlrc").write_text(CURL)
        for stand_in in STAND_INS:
            path = self / f"/stand-ins/{stand_in.__name__}"
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -ES {stand_ins.__file__} {path.name} "$@"\n')
            path.chmod(0o755)
        (self / "/stand-ins/python").symlink_to("python3")
        tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
        for name in {line.partition("/")[0] for line in tracked.splitlines()} | {".git"}:
            (self / f"{CLONE}/{name}").symlink_to(PROJECT / name)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the shell to its end, whatever comes of it."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(command.encode() + b"\0")
        self._shell.stdin.flush()
        began = time.monotonic()
        is_done, _, _ = select.select([self._reports], [], [], SECONDS)
        status = self._reports.readline() if is_done else ""
        assert status, f"the shell ended, or this does not end: {command}"
        print(f"{time.monotonic() - began:.1f} s: {command}")
        output, errors = ((self / f"/run/{name}").read_text(errors="replace") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess([command], int(status), output, errors)

    def type(self, command: str, statuses: Collection[int] = (0,), errors: str = "") -> str:
        """Run a command; return what it prints. Its exit status and what it writes to standard error are as said.

        `errors`: a pattern of lines of standard error that are expected.
        """
        done = self.run(command)
        written = [line for line in done.stderr.splitlines() if not (errors and re.search(errors, line))]
        said = f"{command}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert (done.returncode in statuses, written) == (True, []), said
        return done.stdout

    def typing(self, statuses: Collection[int] = (0,), errors: str = "", behind: str = "") -> Step:
        """A step that types a command with a text `behind` it, and expects what `type` does."""
        return lambda command: self.type(f"{command.text.partition('  #')[0].rstrip()}{behind}", statuses, errors)

    def follow(self, name: str, section: str = "", steps: Mapping[str, Step] | None = None, **values: str) -> None:
        """Type every command of a document, or of one section of it.

        `steps`: what is done with commands that begin with a text, instead of `type`.
        `values`: what stands for a word in capitals.
        """
        for block in typed(name, section):
            for command in block.commands:
                self.typed.add(command.text)
                text = with_values(OPTIONAL.sub("", command.text), values)
                step = next((steps[key] for key in steps or () if text.startswith(key)), self.as_shown)
                step(replace(command, text=text))

    def as_shown(self, command: Command) -> None:
        """Run a command, and require the output that the document shows, if it shows any."""
        if not command.shown:
            self.type(command.text)
            return
        done = self.run(command.text)
        printed = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        assert (done.returncode, comparable(printed)) == (0, comparable(command.shown)), command.text

    def start(self, command: str, ready: int = 1) -> list[str]:
        """Run a command in the background, such as a node; return its first lines, which say that it is ready."""
        output = self / "/run/served"
        output.unlink(missing_ok=True)
        done = self.run(f"{command.partition(' # ')[0]} >/run/served 2>>/run/log </dev/null & echo $!")
        self._background[command] = int(done.stdout)
        until(
            lambda: output.exists() and output.read_text().count("\n") >= ready,
            SECONDS,
            f"{command}: {(self / '/run/log').read_text()[-2000:] if (self / '/run/log').exists() else ''}",
        )
        return output.read_text().splitlines()

    def stop(self) -> None:
        """End what runs in the background, as Ctrl-C does."""
        while self._background:
            command, number = self._background.popitem()
            assert self.run(f"kill {number}; wait {number}").returncode in (0, 143), command

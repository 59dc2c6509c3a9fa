"""A primary and a standby of PostgreSQL, at addresses that stay the same whichever is which."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

from tests.postgresql import ACCOUNT, Server, await_server, programs

WAITS = "synchronous_standby_names=*"
"""Each commit waits for the disk of a standby. Both servers have this, so that a promoted one waits for the next."""


class Replicated:
    """Two servers. Commits wait while there is no standby.

    `servers`: in the order of `url`.
    `primary`, `standby`: one of them each.
    """

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._account = ACCOUNT if os.geteuid() == 0 else None
        self._processes: dict[Server, subprocess.Popen[bytes]] = {}
        self.servers = self._folder(), self._folder()
        self.primary, self.standby = self.servers
        data = self.primary.folder / "data"
        self._run("initdb", "-D", data, "-U", "voxelnode", "-A", "trust", "-E", "UTF8", "-N", "--locale", "C.UTF-8")
        self.run(self.primary)
        self.follow()

    def url(self, database: str) -> str:
        """The URL of a database, at whichever server takes commits."""
        hosts = ",".join(str(server.folder) for server in self.servers)
        return f"postgresql://voxelnode@/{database}?host={hosts}&target_session_attrs=read-write"

    def run(self, server: Server, names: str = WAITS) -> None:
        """Run a server, and wait until it answers."""
        options = ("listen_addresses=", f"unix_socket_directories={server.folder}", "max_connections=300", names)
        (server.folder / "data" / "postmaster.pid").unlink(missing_ok=True)  # its number may be that of another process
        command = [self._programs / "postgres", "-D", server.folder / "data"]
        with (server.folder / "log").open("a") as log:
            process = subprocess.Popen(
                [*command, *(word for option in options for word in ("-c", option))],
                user=self._account, cwd="/", stdout=log, stderr=log,
            )  # fmt: skip
        self._processes[server] = process
        await_server(server, process)

    def follow(self) -> None:
        """Make a new standby of the primary."""
        [self.standby] = set(self.servers) - {self.primary}
        data = self.standby.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        self._run("pg_basebackup", "-D", data, "-h", self.primary.folder, "-U", "voxelnode", "-R", "-c", "fast")
        self.run(self.standby)

    def promote(self) -> None:
        """Make the standby a primary, whatever the other server does."""
        self.primary, self.standby = self.standby, self.primary
        self.primary.run("SELECT pg_promote()")

    def signal(self, server: Server, number: signal.Signals) -> None:
        """Send a signal to all processes of a server."""
        process = self._processes[server].pid
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for one in (process, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(one, number)

    def kill(self, server: Server) -> None:
        """End a server as a power cut of its machine would."""
        self.signal(server, signal.SIGKILL)
        self._processes.pop(server).wait()

    def close(self) -> None:
        for server in [*self._processes]:
            self.kill(server)
        for server in self.servers:
            shutil.rmtree(server.folder)

    def _folder(self) -> Server:
        folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket is short
        if self._account is not None:
            shutil.chown(folder, self._account)
        return Server(folder)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, user=self._account, cwd="/", stdout=subprocess.DEVNULL)


def replicated() -> AbstractContextManager[Replicated]:
    """Run a primary and a synchronous standby."""
    return closing(Replicated())

"""A node as its users run it: the `voxelnode serve` process, looked at through its files and its index only."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import Dataset
from pynetdicom import AE

from node.api import Address
from tests.preloaded import Process
from tests.rows import read_rows, view_rows, wait_until_applied
from tests.waiting import until

READY = re.compile(r"voxelnode ready: AE (\S+) on ([\d.]+):(\d+)(?: and, by TLS, \d+)?, root (.*)")


def peak_bytes(process: int) -> int:
    """The most memory that a process has had."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) * 1024


class Served:
    """One `voxelnode serve` process on a root, ended with the block."""

    def __init__(self, root: Path, **environment: str) -> None:
        self.root = root
        self.environment = {"VOXELNODE_SERIES__QUIET_SECONDS": "1", "VOXELNODE_WEB__PORT": "0", **environment}
        self.process: Process | None = None
        self.port = 0

    @property
    def address(self) -> Address:
        """Where it listens, for our own requestor."""
        return Address("VOXELNODE", "127.0.0.1", self.port)

    def start(self) -> Self:
        self._close()
        with (self.root.parent / "serve.log").open("a") as log:
            self.process = Process(
                ["serve", "--create", "--root", str(self.root), "--port", "0"], self.environment, log
            )
        self.port = self.port_of(self.process.stdout.readline())
        return self

    def port_of(self, line: str) -> int:
        """The port of the readiness line, which is the first line that the process prints."""
        ready = READY.fullmatch(line.strip())
        if ready is None:
            self._close()
        assert ready, f"no readiness line, but {line!r}: {(self.root.parent / 'serve.log').read_text()[-2000:]}"
        return int(ready[3])

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, seconds: float = 30) -> int:
        """Ask it to stop; returns its exit status."""
        self.process.terminate()
        return self.process.wait(seconds)

    def rows(self, query: str) -> list[dict[str, Any]]:
        return view_rows(self.root, query)

    def wait_until_released(self) -> None:
        """Return when the node has noted the end of every association: killed before, it counts them as cut off."""
        until(lambda: not self.rows("SELECT id FROM open_associations"), 30, "the end of every association noted")

    def wait_until_idle(self, seconds: float = 120) -> None:
        """Return when no series waits for its conversion any more."""
        open_series = (
            "SELECT series_instance_uid, state, error FROM v_series WHERE state IN ('receiving', 'converting')"
        )
        wait_until_applied(self.root, seconds)
        until(lambda: not read_rows(self.root, open_series), seconds, "every series converted or refused")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@dataclass
class Sent:
    """What a peer answered to those who send, as far as it did."""

    acknowledged: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def sent(port: int, instances: Sequence[Dataset], seconds: float = 60) -> Sent:
    """Send instances on one association until its peer dies."""
    answers = Sent()
    ae = AE("SENDER")
    ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = seconds
    ae.add_requested_context(instances[0].SOPClassUID, instances[0].file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", port, ae_title="VOXELNODE")
    for ds in instances:
        if not assoc.is_established:
            break
        try:
            status = assoc.send_c_store(ds)
        except RuntimeError:  # the peer has died
            break
        if status:
            answers.statuses.append(status.Status)
        if status and status.Status == 0x0000:
            answers.acknowledged.append(str(ds.SOPInstanceUID))
    if assoc.is_established:
        assoc.release()
    return answers


def send(port: int, *instances: Dataset) -> None:
    """Send instances on one association; all of them are taken."""
    assert sent(port, instances).acknowledged == [str(ds.SOPInstanceUID) for ds in instances]

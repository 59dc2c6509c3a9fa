"""The clock of a real process jumps: nothing is deleted for its age, and the node says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node.association.client.association import Address
from node.association.client.send import send_files
from node.control.control_socket import request_action
from tests import make
from tests.acceptance.served import READY, until
from tests.programs import needs
from tests.rows import view_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RULES = {
    "VOXELNODE_RETENTION__DAYS": "30",
    "VOXELNODE_RETENTION__MAXIMUM_SHARE": "1",
    "VOXELNODE_RETENTION__ONLY_CONVERTED": "false",
    "VOXELNODE_WEB__ENABLED": "false",
}
YEAR = 365 * 86400


class Shifted:
    """A node with a clock that a file sets, before it starts and while it runs; the uptime is that of the machine."""

    def __init__(self, root: Path, seconds: int) -> None:
        self.root, self._shift = root, root.parent / "shift"
        self.set_clock(seconds)

    def set_clock(self, seconds: int) -> None:
        """Set the clock to so many seconds from now."""
        part = self._shift.with_suffix(".part")
        part.write_text(f"{seconds:+d}\n")
        part.replace(self._shift)

    def __enter__(self) -> Shifted:
        needs("faketime", "faketime")
        library = next(Path("/usr/lib").glob("**/libfaketime.so.1"))
        faked = {"FAKETIME_TIMESTAMP_FILE": str(self._shift), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        with (self.root.parent / "serve.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node", "serve", "--root", str(self.root), "--port", "0"],
                env={**os.environ, **RULES, **faked, "LD_PRELOAD": str(library)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        ready = READY.fullmatch(self._process.stdout.readline().strip())
        assert ready, (self.root.parent / "serve.log").read_text()[-2000:]
        self.address = Address("VOXELNODE", "127.0.0.1", int(ready[3]))
        return self

    def send(self, folder: Path, studies: int) -> None:
        """Send studies of one instance each."""
        folder.mkdir(exist_ok=True)
        paths = []
        for number in range(studies):
            [ds] = make.ct_series(1)
            paths.append(folder / f"{number}.dcm")
            ds.save_as(paths[-1], enforce_file_format=True)
        assert send_files(paths, self.address, "CT1") == studies

    @property
    def state(self) -> dict[str, Any]:
        """What retention has seen and waits for."""
        rows = view_rows(self.root, "SELECT value FROM about WHERE key = 'retention'")
        return json.loads(rows[0]["value"]) if rows else {}

    @property
    def studies(self) -> int:
        return int(view_rows(self.root, "SELECT count(*) AS n FROM v_studies")[0]["n"])

    def __exit__(self, *_: object) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_nothing_is_deleted_for_an_age_that_a_jump_of_the_clock_gave_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Shifted(root, 0) as node:
        node.send(tmp_path / "first", 5)
        until(lambda: node.state.get("last"), 60, "retention has looked at the clock")
        node.set_clock(-3 * YEAR)
        node.send(tmp_path / "second", 1)
        until(lambda: node.state["held"], 60, "the clock that was set back was seen")
        assert "the clock was set back by 3.0 years" in node.state["held"]
    with Shifted(root, 11 * YEAR) as node:
        until(lambda: node.studies == 6, 60, "what the journal had is in the index")
        assert "set back" in node.state["held"], "the doubt survives a kill"
        node.set_clock(0)
        assert "set back" in request_action(root, "confirm-retention", {"who": "somebody"})["confirmed"]
        until(lambda: node.state["held"] is None, 60, "retention goes on")
        node.set_clock(11 * YEAR)
        until(lambda: node.state["held"], 60, "the clock that was set forward was seen")
        assert node.studies == 6
    with Shifted(root, 0) as node:
        confirmed = node.state["confirmation"]
        request_action(root, "confirm-retention", {"who": "somebody"})
        until(lambda: node.state["confirmation"] != confirmed, 60, "retention goes on")
        assert (node.studies, node.state["held"]) == (6, None)

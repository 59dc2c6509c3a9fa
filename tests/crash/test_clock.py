"""The clock of a real process jumps: nothing is deleted for its age, and the node says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.association.client.send import send_files
from node.control.control_socket import request_action
from tests import make
from tests.acceptance.served import Served, until
from tests.crash.clock import ShiftedClock
from tests.preloaded import LOOKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RULES = {
    "VOXELNODE_RETENTION__DAYS": "30",
    "VOXELNODE_RETENTION__MAXIMUM_SHARE": "1",
    "VOXELNODE_RETENTION__ONLY_CONVERTED": "false",
    "VOXELNODE_WEB__ENABLED": "false",
    LOOKS: "0.1",
}
YEAR = 365 * 86400


class Shifted(Served):
    """A node whose clock the test sets; the uptime is that of the machine."""

    def __init__(self, root: Path) -> None:
        self.clock = ShiftedClock(root.parent)
        super().__init__(root, **RULES, **self.clock.environment)

    def start_at(self, seconds: int) -> None:
        """End it as a power cut would, and start it under a clock that is so much ahead."""
        self.kill()
        self.clock.set(seconds)
        self.start()

    def send(self, folder: Path, studies: int) -> None:
        """Send studies of one instance each."""
        paths = make.saved((make.ct_series(1)[0] for _ in range(studies)), folder)
        assert send_files(paths, self.address, "CT1") == studies

    @property
    def state(self) -> dict[str, Any]:
        """What retention has seen and waits for."""
        rows = self.rows("SELECT value FROM about WHERE key = 'retention'")
        return json.loads(rows[0]["value"]) if rows else {}

    @property
    def studies(self) -> int:
        return int(self.rows("SELECT count(*) AS n FROM v_studies")[0]["n"])


def test_nothing_is_deleted_for_an_age_that_a_jump_of_the_clock_gave_it(tmp_path: Path) -> None:
    with Shifted(tmp_path / "root") as node:
        node.send(tmp_path / "first", 5)
        until(lambda: node.state.get("last"), 60, "retention has looked at the clock")
        node.start_at(-3 * YEAR)
        node.send(tmp_path / "second", 1)
        until(lambda: node.state["held"], 60, "the clock that was set back was seen")
        assert "the clock was set back by 3.0 years" in node.state["held"]
        node.start_at(11 * YEAR)
        until(lambda: node.studies == 6, 60, "what the journal had is in the index")
        assert "set back" in node.state["held"], "the doubt survives a kill"
        node.start_at(0)
        assert "set back" in request_action(node.root, "confirm-retention", {"who": "somebody"})["confirmed"]
        until(lambda: node.state["held"] is None, 60, "retention goes on")
        node.clock.set(11 * YEAR)
        until(lambda: node.state["held"], 60, "the clock that was set forward was seen")
        assert node.studies == 6
        node.clock.set(0)
        confirmed = node.state["confirmation"]
        request_action(node.root, "confirm-retention", {"who": "somebody"})
        node.start_at(0)
        until(lambda: node.state["confirmation"] != confirmed, 60, "retention goes on")
        assert (node.studies, node.state["held"]) == (6, None)

"""A node that is killed in every step of taking results in: the program of its hook runs once, and no result is lost.

The program is a real one, which counts how often it runs.
"""

import json
import sys
from pathlib import Path

import pytest

from node.runtime.failpoints import RESULTS, VARIABLE
from tests import make
from tests.acceptance.served import Served, until
from tests.acceptance.test_lifecycle import send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROGRAM = """
import sys
from pathlib import Path
out, runs = map(Path, sys.argv[1:])
with runs.open("a") as file:
    file.write("run\\n")
for name in ("one", "two"):
    (out / (name + ".pdf")).write_text("%PDF-1.4 " + name + " %%EOF")
"""


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("point", ["message-delivered", *RESULTS, "result-stored:2"])
def test_a_program_runs_once_wherever_the_node_is_killed_behind_its_end(tmp_path: Path, point: str) -> None:
    runs = tmp_path / "runs"
    hook = {
        "KIND": "command", "ON": '["volume-written"]', "RESULTS": "true", "ATTEMPTS": "1",
        "COMMAND": json.dumps([sys.executable, "-c", PROGRAM, "{out}", str(runs)]), "WHERE": '{"modality": "CT"}',
    }  # fmt: skip
    environment = {f"VOXELNODE_HOOKS__MODEL__{key}": value for key, value in hook.items()}
    with Served(tmp_path / "root", **{VARIABLE: point}, **environment) as node:
        send(node, make.ct_series(2))
        assert node.process.wait(120) != 0
        node.environment.pop(VARIABLE)
        node.start()
        done = "SELECT 1 FROM v_deliveries WHERE state = 'delivered'"
        until(lambda: node.rows(done), 120, f"the message delivered: {node.rows('SELECT * FROM v_deliveries')}")
        [ended] = node.rows("SELECT detail FROM v_events WHERE kind = 'job-ended'")
        assert ended["detail"] == "the job of hook MODEL has succeeded, with 2 results"
        assert len(node.rows("SELECT 1 FROM v_images WHERE source = 'result'")) == 2
        assert runs.read_text() == "run\n"
        until(lambda: list((tmp_path / "root" / "jobs").iterdir()) == [], 30, "nothing of the job is left")

"""A node that is killed in every step of taking results in, or of writing a changed verdict into sidecars.

The program of a hook is a real one, which counts how often it runs: it runs once, and no result is lost.
"""

import datetime as dt
import json
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from node.api import Index, send_files
from node.completeness import Reported
from node.runtime.failpoints import JUDGING, RESULTS, VARIABLE
from node.runtime.metrics import Metrics
from tests import make
from tests.acceptance.served import Served, send, until
from tests.preloaded import run

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
        send(node.port, *make.ct_series(2))
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


# A real node that is killed in every step of writing a changed verdict into sidecars.


def said(root: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text())["completeness"] for path in sorted(root.glob("volumes/*/*/*/*.json"))]


def is_told(node: Served) -> bool:
    return not node.rows("SELECT id FROM conversions WHERE owes_sidecars")


def judge(root: Path, count: int) -> None:
    """Let the sender say between two runs of the node that it has so many instances, and which."""
    with closing(Index(root, Metrics())) as index:
        with index.reading() as rows:
            [series] = rows.series.page(None, 2)
        key = series["study_instance_uid"], series["series_instance_uid"]
        reported = Reported(3, count, count - 3, tuple(f"1.2.{number}" for number in range(count - 3)))
        index.series.record_reported(key, reported, dt.datetime.now(dt.UTC))


def test_a_node_killed_in_any_step_writes_the_verdict_when_it_starts_again(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    make.saved(make.ct_series(3), out)
    with Served(root) as node:
        send_files(sorted(out.iterdir()), node.address, "CT1")
        node.wait_until_idle()
        node.terminate()
    [before] = said(root)
    assert before["state"] == "complete"
    for number, point in enumerate(JUDGING, start=1):
        judge(root, 3 + number)
        node = Served(root, **{VARIABLE: point})
        with suppress(AssertionError):  # it dies before it is ready, or soon after
            node.start()
        node.process.wait(30)
        node.process.stdout.close()
        [after_kill] = said(root)
        is_written = point in ("sidecars-renamed", "sidecars-done")
        assert after_kill["missing"] == (number if is_written else before["missing"]), point
        with Served(root) as node:
            until(partial(is_told, node), 30, "the verdict is told")
            [series] = node.rows("SELECT revision, state, verdict, missing_instances FROM v_series")
            assert tuple(series.values()) == (1, "converted", "incomplete", number)
            node.terminate()
        [before] = said(root)
        assert (before["state"], before["missing"]) == ("incomplete", number)
        assert not list(root.glob("volumes/**/*.part"))
        assert run("fsck", "--hash", "--root", root).returncode == 0

"""The journal as users and scripts meet it: its commands, `fsck`, `db rebuild`, and the reader of docs/journal.md."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.receive.data_set import LARGE_BYTES
from tests import make
from tests.acceptance.served import Served, send, until
from tests.integration.conftest import data_set_bytes
from tests.made_once import lose_index
from tests.rows import index_locked, read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "journal.md"
LONG_AGO_SECONDS = 600
Run = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def run(run: Run, root: Path) -> Run:
    """Run one command on the root."""
    return lambda *arguments: run(*arguments, "--root", str(root))


def large_instance() -> FileDataset:
    [ds] = make.ct_series(1)
    ds.PixelData = os.urandom(3 * LARGE_BYTES)
    return ds


def kill_with_records_that_wait(root: Path, *instances: FileDataset) -> None:
    """Leave a root with all instances in the journal and none of them in the index."""
    with Served(root) as node, index_locked(root):
        send(node.port, *instances)
        node.kill()


def objects(root: Path) -> list[Path]:
    return sorted(root.glob("objects/*/*.dcm"))


def index_rows(root: Path, query: str) -> list[Any]:
    return [next(iter(row.values())) for row in read_rows(root, query)]


def flip_a_byte_of_record(root: Path, number: int) -> None:
    """Damage a record of the only segment in its body."""
    [path] = root.glob("journal/*.journal")
    content = bytearray(path.read_bytes())
    begins = [found.start() for found in re.finditer(b"VXJR", content)]
    content[begins[number - 1] + 200] ^= 0xFF
    path.write_bytes(content)


def test_the_reader_of_the_document_rescues_every_instance(root: Path, tmp_path: Path) -> None:
    [script] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(script.splitlines()) <= 50
    reader = tmp_path / "rescue.py"
    reader.write_text(script, encoding="utf-8")
    moved, small, large = large_instance(), make.ct_series(5), large_instance()
    with Served(root) as node, index_locked(root):
        send(node.port, moved)  # applied as far as its file, and no further
        until(lambda: objects(root), 30, "the file of the first instance")
        send(node.port, *small, large)
        node.kill()
    assert len(list(root.glob("incoming/*.part"))) == 1
    reported = subprocess.run(
        [sys.executable, reader, root / "journal", tmp_path / "rescued"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
    )
    assert reported.returncode == 0, reported.stderr
    assert "7 instances" in reported.stdout
    rescued = {path.name: path.read_bytes() for path in (tmp_path / "rescued").iterdir()}
    assert len(rescued) == 7
    for ds in (moved, *small, large):
        data = data_set_bytes(ds)
        assert sum(content.endswith(data) for content in rescued.values()) == 1
    with Served(root) as node:  # the node itself archives the same files
        until(lambda: len(objects(root)) == 7, 30, "every file")
        assert {path.name: path.read_bytes() for path in objects(root)} == rescued
        assert sorted(node.rows("SELECT count(*) AS n FROM v_images")[0].values()) == [7]


def test_the_reader_of_the_document_passes_over_a_damaged_record(root: Path, tmp_path: Path) -> None:
    [script] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "rescue.py").write_text(script, encoding="utf-8")
    kill_with_records_that_wait(root, *make.ct_series(4))
    flip_a_byte_of_record(root, 2)
    command = [sys.executable, tmp_path / "rescue.py", root / "journal", tmp_path / "rescued"]
    reported = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "3 instances" in reported.stdout
    assert len(list((tmp_path / "rescued").iterdir())) == 3


def test_status_tells_what_waits_beside_a_running_node_and_after_it_was_killed(root: Path, run: Run) -> None:
    with Served(root) as node:
        with index_locked(root):
            send(node.port, *make.ct_series(3))
            reported = run("journal", "status", "--json")
            assert (reported.status, reported.json["waiting"], reported.json["damage"]) == (0, 3, [])
            assert reported.json["bytes"] >= 4096
            assert "3 instances" in run("journal", "status").out
            status = run("status", "--json").json
            assert (status["queued_instances"], status["journal_damage"]) == (3, [])
            assert status["journal_bytes"] == reported.json["bytes"]
            assert "3 instances waiting for the index" in run("status").out
        until(lambda: run("journal", "status", "--json").json["waiting"] == 0, 60, "all applied")
        node.kill()
    assert run("journal", "status", "--json").json["waiting"] == 0
    assert "nothing waits for the index" in run("status").out


def test_status_of_a_root_without_an_index_tells_what_a_new_one_would_get(root: Path, run: Run) -> None:
    kill_with_records_that_wait(root, *make.ct_series(2))
    lose_index(root)
    assert run("journal", "status", "--json").json["waiting"] == 2
    reported = run("db", "rebuild", "--json").json
    assert (reported["from_journal"], reported["damaged_in_journal"], reported["instances"]) == (2, 0, 0)
    assert index_rows(root, "SELECT count(*) FROM v_images WHERE calling_ae_title = 'SENDER'") == [2]


def test_rebuild_tells_what_came_from_files_and_what_from_the_journal(root: Path, run: Run) -> None:
    with Served(root) as node:
        send(node.port, *make.ct_series(3))
        node.terminate()
    kill_with_records_that_wait(root, *make.ct_series(2))
    assert "3 instances indexed, 2 applied from the journal, 0 unreadable" in run("db", "rebuild").out
    assert index_rows(root, "SELECT count(*) FROM v_images") == [5]


def test_fsck_reports_what_waits_without_a_node_and_repair_applies_it(root: Path, run: Run) -> None:
    with Served(root) as node, index_locked(root):
        send(node.port, *make.ct_series(3))
        until(lambda: objects(root), 30, "a file that has no row yet: no finding of its own")
        node.kill()
    reported = run("fsck", "--json")
    assert reported.status == 1
    [finding] = reported.json["findings"]
    assert (finding["kind"], finding["path"]) == ("journal-waiting", "journal")
    assert "3 acknowledged instances" in finding["detail"]
    [repaired] = run("fsck", "--repair", "--json").json["findings"]
    assert repaired["repair"] == "applied"
    assert run("fsck", "--hash").status == 0
    assert index_rows(root, "SELECT count(*) FROM v_images") == [3]


def test_fsck_beside_a_node_is_quiet_about_what_is_being_applied(root: Path, run: Run) -> None:
    with Served(root) as node, index_locked(root):
        send(node.port, *make.ct_series(3))
        until(lambda: len(objects(root)) == 3, 30, "files without rows")
        for path in objects(root):
            os.utime(path, (path.stat().st_mtime - LONG_AGO_SECONDS,) * 2)
        assert run("fsck", "--json").json == {"ok": True, "findings": []}


def test_a_file_that_a_power_cut_took_is_written_again_by_repair(root: Path, run: Run) -> None:
    with Served(root) as node:
        send(node.port, *make.ct_series(3))
        until(lambda: node.rows("SELECT count(*) AS n FROM v_images") == [{"n": 3}], 30, "all applied")
        node.kill()
    gone, torn, _ = objects(root)
    content = gone.read_bytes(), torn.read_bytes()
    gone.unlink()
    os.truncate(torn, 0)
    findings = run("fsck", "--repair", "--json").json["findings"]
    assert {(found["kind"], found["repair"]) for found in findings} == {
        ("file-missing", "written again from the journal"),
        ("file-altered", "written again from the journal"),
    }
    assert (gone.read_bytes(), torn.read_bytes()) == content
    assert index_rows(root, "SELECT count(*) FROM v_images WHERE file_missing") == [0]
    assert list((root / "quarantine").glob("*.*")) == []
    assert run("fsck", "--hash").status == 0


def test_a_damaged_record_is_reported_by_every_command_and_the_start_keeps_its_segment(root: Path, run: Run) -> None:
    kill_with_records_that_wait(root, *make.ct_series(4))
    flip_a_byte_of_record(root, 2)
    for path in objects(root):  # as a power cut would: they are not synced
        path.unlink()
    reported = run("journal", "status", "--json")
    assert reported.status == 1
    assert reported.json["damage"] == [{"first": 2, "last": 2, "segment": "00000000.journal"}]
    assert reported.json["waiting"] == 3
    assert "send them again" in run("journal", "status").out
    assert "voxelnode journal status" in run("status").out
    [check] = [found for found in run("doctor", "--json").json["findings"] if found["check"] == "journal"]
    assert (check["state"], "record 2" in check["found"]) == ("broken", True)
    kinds = {finding["kind"] for finding in run("fsck", "--json").json["findings"]}
    assert kinds == {"journal-damaged", "journal-waiting"}
    with Served(root) as node:
        assert node.rows("SELECT kind FROM v_events WHERE kind = 'journal-damaged'") == [{"kind": "journal-damaged"}]
        assert node.rows("SELECT count(*) AS n FROM v_images") == [{"n": 3}]
        node.terminate()
    assert len(list(root.glob("quarantine/*.journal"))) == 1
    assert run("journal", "status").status == 0


def test_drain_is_the_way_back_to_a_version_without_a_journal(root: Path, run: Run) -> None:
    with Served(root) as node:
        refused = run("journal", "drain")
        assert (refused.status, "stop it" in refused.err) == (1, True)
        node.process.send_signal(signal.SIGKILL)  # type: ignore[union-attr]
        node.process.wait()  # type: ignore[union-attr]
    kill_with_records_that_wait(root, *make.ct_series(3), large_instance())
    assert run("journal", "drain", "--json").json["applied"] == 4
    assert list((root / "journal").glob("*.*")) == []
    assert list((root / "incoming").glob("*.*")) == []
    assert index_rows(root, "SELECT count(*) FROM v_images") == [4]
    assert "0 instances" in run("journal", "drain").out  # nothing is left to do
    with Served(root) as node:  # a journal of its own again
        send(node.port, *make.ct_series(2))
        until(lambda: node.rows("SELECT count(*) AS n FROM v_images") == [{"n": 6}], 30, "all applied")

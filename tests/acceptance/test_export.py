"""An export: what another account may read of a root that is its owner's alone, while the node runs and afterwards."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import make
from tests.acceptance.served import Served
from tests.preloaded import run

pytestmark = pytest.mark.slow

OTHER_ACCOUNT, GROUP = 65534, "users"
READ = """
import json, sqlite3, sys
index = sqlite3.connect(f"file:{sys.argv[1]}/index.sqlite?mode=ro", uri=True)
index.row_factory = sqlite3.Row
rows = [dict(row) for row in index.execute(sys.argv[2])]
print(json.dumps([row | {"head": open(row["path"], "rb").read(2).hex()} for row in rows]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other accounts may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def read_as_another_account(target: Path, query: str) -> list[dict[str, Any]]:
    """The rows of a query and the first bytes of their files, read by a stranger who is a member of the group."""
    import grp

    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("being another account needs root")
    done = subprocess.run(
        [python, "-I", "-c", READ, str(target), query], user=OTHER_ACCOUNT, group=OTHER_ACCOUNT,
        extra_groups=[grp.getgrnam(GROUP).gr_gid], cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def exported(root: Path, target: Path, *options: object, status: int = 0) -> dict[str, Any]:
    done = run("db", "export", target, "--root", root, "--json", *options)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def audited(root: Path) -> list[str]:
    """Return what the audit log tells of exports."""
    lines = [json.loads(line) for line in (root / "audit.jsonl").read_text().splitlines()]
    return [line["detail"] for line in lines if line["event"]["meaning"] == "Export"]


def series(folder: Path, name: str, **attributes: Any) -> None:
    make.saved(make.mr_series(4, PatientName="Doe^Jane", SeriesDescription=name, **attributes), folder)


CATALOG = "SELECT * FROM v_catalog ORDER BY series_description"


@pytest.mark.long
def test_another_account_reads_an_export_whether_the_node_runs_or_not(folder: Path) -> None:
    root, target = folder / "root", folder / "shared"
    spin_echo = {"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 12, "SliceThickness": 1}
    series(folder / "first", "T1 first", **spin_echo, ContrastBolusAgent="Gadovist")
    series(folder / "second", "second")
    assert run("import", "--root", root, folder / "first", folder / "second").returncode == 0
    assert run("account", "add", "anna", "--root", root, "--role", "read", "--no-password").returncode == 0
    with Served(root) as node:
        node.wait_until_idle()
        done = exported(root, target, "--group", GROUP)
        assert (done["copied"], done["unchanged"], done["removed"], done["absent"]) == (2, 0, 0, [])
        first, second = read_as_another_account(target, CATALOG)
        assert first["head"] == "1f8b"  # a compressed NIfTI
        assert first["path"].startswith(f"{target}/volumes/")
        assert (first["weighting"], first["sequence"], first["contrast_agent"]) == ("T1", "Spin Echo", "GADOLINIUM")
        assert (first["repetition_time_ms"], first["echo_time_ms"], first["slice_thickness_mm"]) == (500, 12, 1)
        assert (first["orientation"], first["slices"], first["times"], first["verdict"]) == ("axial", 4, 1, "complete")
        assert [len(line) for line in json.loads(first["affine_lps"])] == [4] * 4
        reported = audited(root)
        assert node.terminate() == 0
    assert reported[-2].endswith(f"voxelnode db export to {target}, for {GROUP}: begun")
    assert reported[-1].endswith(": done, 2 conversions copied, 0 already there, 0 removed")
    nothing_of_accounts_is_in(target / "index.sqlite")
    run("delete", first["study_instance_uid"], "--yes", "--root", root, check=True)
    assert read_as_another_account(target, CATALOG) == [first, second]
    done = exported(root, target, "--group", GROUP)
    assert (done["copied"], done["unchanged"], done["removed"]) == (0, 1, 1)
    assert audited(root)[-1].endswith(": done, 0 conversions copied, 1 already there, 1 removed")
    run("audit", "--verify", "--root", root, check=True)
    assert read_as_another_account(target, CATALOG) == [second]
    assert not Path(first["path"]).exists()


def nothing_of_accounts_is_in(index: Path) -> None:
    assert b"anna" not in index.read_bytes()
    with closing(sqlite3.connect(index)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = [table for table in tables if not table.startswith("study_grams")]
        assert {"accounts", "tokens", "web_sessions"} <= set(tables)
        assert connection.execute("SELECT count(*) FROM v_images WHERE repetition_time = 500").fetchone()[0] > 0
        filled = {table for table in tables if connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]}
    assert filled <= {
        "about", "alembic_version", "conversions", "events", "exclusions", "images", "patients", "series", "studies",
        "volume_sources", "volumes", "series_documents", "image_documents",
    }  # fmt: skip
    assert sorted(path.name for path in index.parent.iterdir()) == ["index.sqlite", "volumes"]


@pytest.mark.sqlite("looks at the owner of the file")
def test_an_export_without_damaged_volumes_and_of_its_owner_alone(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "shared"
    series(tmp_path / "first", "first")
    run("import", "--root", root, tmp_path / "first", check=True)
    with Served(root) as node:
        node.wait_until_idle()
        [row] = node.rows("SELECT path FROM v_catalog")
        node.terminate()
    (target / "export.part").mkdir(parents=True)  # of an export that was killed
    (target / "export.part" / "index.sqlite").write_bytes(b"half")
    whole = Path(row["path"]).read_bytes()
    Path(row["path"]).write_bytes(whole[:-1] + b"X")
    done = exported(root, target, status=1)
    assert (done["copied"], len(done["absent"])) == (0, 1)
    with closing(sqlite3.connect(target / "index.sqlite")) as connection:
        assert connection.execute("SELECT * FROM v_volumes").fetchall() == []
        assert connection.execute("SELECT state FROM v_series").fetchall() == [("converted",)]
    Path(row["path"]).write_bytes(whole)
    assert exported(root, target)["copied"] == 1
    sidecar = next(Path(row["path"]).parent.glob("*.json"))
    sidecar.write_text(sidecar.read_text().replace('"state": "complete"', '"state": "incomplete"'))
    assert exported(root, target)["copied"] == 0
    assert (target / sidecar.relative_to(root)).read_text() == sidecar.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (target, *target.rglob("*"))} == {0o700, 0o600}
    refused_targets(root, tmp_path)


def refused_targets(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    (tmp_path / "node").mkdir()
    shutil.copy(root / "index.sqlite", tmp_path / "node")
    (tmp_path / "another").mkdir()
    shutil.copy(root / "index.sqlite", tmp_path / "another")
    exported(tmp_path / "another", tmp_path / "of-another", status=1)  # of which no file is there
    for wrong, words in (
        (root / "shared", "may not lie in one another"),
        (tmp_path, "may not lie in one another"),
        (tmp_path / "other", "not the index of an export"),
        (tmp_path / "node", "not the index of an export"),
        (tmp_path / "of-another", f"is an export of {tmp_path / 'another'}"),
    ):
        before = names_in(wrong)
        done = run("db", "export", wrong, "--root", root)
        assert done.returncode in (1, 2)
        assert words in done.stderr
        assert names_in(wrong) == before
    done = run("db", "export", tmp_path / "new", "--group", "no-such-group", "--root", root)
    assert (done.returncode, (tmp_path / "new").exists()) == (2, False)
    assert "getent group" in done.stderr


def names_in(folder: Path) -> set[Path]:
    """What is in a folder, without the files that SQLite needs while it reads a write-ahead log."""
    return {path for path in folder.rglob("*") if not path.name.endswith(("-shm", "-wal"))}


def test_an_export_of_a_project_has_nothing_else(folder: Path) -> None:
    """Not in any byte of the index, either: a study that is seen in part has no moments of the whole."""
    root, target = folder / "root", folder / "trial"
    for name, study in (("seen", "1.2.901"), ("hidden", "1.2.901"), ("foreign", "1.2.902")):
        series(folder / name, f"series {name}", study_uid=study, series_uid=f"{study}.{len(name)}", PatientID=study)
    with Served(root) as node:
        assert run("import", "--root", root, *(folder / name for name in ("seen", "hidden", "foreign"))).returncode == 0
        node.wait_until_idle()
        run("projects", "set", "trial", "--root", root, check=True)
        run("projects", "add", "trial", "1.2.901", "--series", "1.2.901.4", "--root", root, check=True)
        assert "no project" in run("db", "export", target, "--root", root, "--project", "trail").stderr
        done = exported(root, target, "--project", "trial")
        assert (done["copied"], done["removed"]) == (1, 0)
        assert audited(root)[-1].startswith("voxelnode db export of project trial to ")
        assert exported(root, folder / "whole")["copied"] == 3
    [row] = rows_of(target, "SELECT * FROM v_catalog")
    assert row["series_description"] == "series seen"
    assert rows_of(target, "SELECT closed_at, quiet_at FROM studies") == [{"closed_at": None, "quiet_at": None}]
    assert len(rows_of(target, "SELECT * FROM v_images")) == 4
    assert {one["series_instance_uid"] for one in rows_of(target, "SELECT * FROM v_events")} == {"1.2.901.4"}
    index = (target / "index.sqlite").read_bytes()
    assert b"series seen" in index
    assert [word for word in (b"hidden", b"foreign", b"1.2.901.6", b"1.2.902") if word in index] == []


def rows_of(target: Path, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(target / "index.sqlite")) as index:
        index.row_factory = sqlite3.Row
        return [dict(row) for row in index.execute(query)]

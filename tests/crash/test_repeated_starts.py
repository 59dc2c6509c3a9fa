"""Starts that are killed at each of their steps, twice: what they leave is what one start leaves."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from node.runtime.failpoints import RECEIVING, RECOVERING, VARIABLE
from tests import make
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, new_series
from tests.integration.conftest import flip
from tests.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.sqlite("a root is copied with its index")]

POINTS = (*RECOVERING, *(point for point in RECEIVING if not point.startswith(("part-", "release-"))))
UNNAMED = "0f" * 16
PATIENT = {"VOXELNODE_SERIES__QUIET_SECONDS": "3600"}  # a busy machine lets a start live long enough for a conversion


def harmed(root: Path, journal: Journal) -> None:
    """Make a root whose start has something of everything to do."""
    with Node(root, environment=PATIENT) as node:
        assert node.start({VARIABLE: "rows-committed"})
        send(node, [*new_series(3), *new_series(3, large=True)], journal)
        node.kill()
    segment = next(path for path in (root / "journal").glob("*.journal") if path.read_bytes().count(b"VXJR") > 2)
    content = segment.read_bytes()
    flip(segment, content.index(b"VXJR", content.index(b"VXJR") + 4) + 60)
    [one] = new_series(1)
    folder = next((root / "objects").glob("0*"))
    make.instance().save_as(folder / f"{UNNAMED[4:]}ffff.dcm", enforce_file_format=True)
    (folder / f"{UNNAMED}.dcm").write_bytes(b"no DICOM" * 40)
    (folder / f"{UNNAMED[::-1]}.dcm").write_bytes(b"nor this" * 40)
    (root / "quarantine" / f"{UNNAMED[::-1]}.dcm").write_bytes(b"another file of this name")
    for name in (UNNAMED[2:] + "ab", UNNAMED[2:] + "cd"):
        (root / "incoming" / f"{name}.part").write_bytes(one.data)
    (root / "quarantine" / f"{UNNAMED[2:]}cd.dcm").write_bytes(b"other bytes")


def left(root: Path) -> dict[str, Any]:
    """What quarantine and the lists have."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "quarantine").glob("*.*")}
    events = "SELECT kind, detail, sop_instance_uid, count(*) AS times FROM events GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    tables = {
        name: read_rows(root, f"SELECT count(*) AS rows FROM {name}")
        for name in ("conflicts", "lost_instances", "rejections", "images", "tombstones")
    }
    gaps = [row["value"].count('"detail"') for row in read_rows(root, "SELECT value FROM about WHERE key = 'gaps'")]
    return {"files": files, "events": read_rows(root, events), "gaps": gaps, **tables}


def test_a_start_that_is_killed_at_any_step_leaves_what_one_start_leaves(tmp_path: Path, journal: Journal) -> None:
    harmed(tmp_path / "root", journal)
    once: dict[str, Any] = {}
    killed = set()
    for point in (None, *POINTS):
        sockets = shutil.ignore_patterns("*.sock")
        root = shutil.copytree(tmp_path / "root", tmp_path / f"root-{point}", symlinks=True, ignore=sockets)
        with Node(root, environment=PATIENT) as node:
            for _ in range(2 if point else 0):
                if not node.start({VARIABLE: point}):
                    killed.add(point)
                node.kill()
            assert node.start(), node.log.read_text()
            node.kill()
        found = left(root)
        once = once or found
        differ = {name: (once[name], found[name]) for name in once if found[name] != once[name]}
        assert differ == {}, point
    assert sorted(name.partition(".")[2] for name in once["files"]) == ["dcm"] * 6 + ["journal"]
    assert killed >= {*RECOVERING, "file-written", "rows-written", "rows-committed", "ledger-synced"}

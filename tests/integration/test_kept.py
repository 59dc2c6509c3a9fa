"""The kept root of each released version (tests/kept/): this version opens, converts and restores it, and goes back."""

import json
import zipfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from node.control.care import check_repository
from node.index.rows.place import FILE_NAME, downgrade, upgrade
from tests.acceptance.served import Served
from tests.ingest import settings_of
from tests.newer import NEWER, newer
from tests.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("kept as files")]

VERSIONS = sorted(path.parent for path in (Path(__file__).parents[1] / "kept").glob("*/root.zip"))

PASSING = {"open_associations", "awaited_senders", "owed_events", "owed_images", "sqlite_sequence"}
"""Tables whose rows go when their work is done."""

COLUMN = 'op.add_column("patients", sa.Column("colour", sa.Text()))', 'op.drop_column("patients", "colour")'
"""What a newer version adds, and how it goes."""

FIRST = {"0.2": "r0001"}
"""The schema of each version."""


class Kept:
    """The files of a version in a folder, and what `tests.kept.make` knew of them."""

    def __init__(self, version: Path, folder: Path) -> None:
        with zipfile.ZipFile(version / "root.zip") as archive:
            archive.extractall(folder)
        self.folder, self.root, self.backup = folder, folder / "root", folder / "backup"
        self.schema = FIRST[version.name]
        known = json.loads((version / "kept.json").read_text(encoding="utf-8"))
        self.instances: list[str] = known["instances"]
        self.rows: dict[str, int] = known["rows"]


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    return Kept(request.param, tmp_path)


def instances(root: Path) -> list[str]:
    query = "SELECT sop_instance_uid AS uid FROM images WHERE NOT file_missing ORDER BY uid"
    return [row["uid"] for row in read_rows(root, query)]


def test_a_node_serves_and_converts_it_and_loses_nothing(kept: Kept) -> None:
    with Served(kept.root, VOXELNODE_CONFIG=str(kept.folder / "voxelnode.toml")) as node:
        web = node.process.stdout.readline().split()[-1]
        node.wait_until_idle()
        assert httpx.get(f"{web.rstrip('/')}/readyz").status_code == 200
        assert node.terminate() == 0
    assert instances(kept.root) == kept.instances
    assert read_rows(kept.root, "SELECT 1 FROM series WHERE state NOT IN ('converted', 'not-an-image')") == []
    counts = {name: len(read_rows(kept.root, f'SELECT 1 FROM "{name}"')) for name in kept.rows}
    assert {name for name, count in kept.rows.items() if counts[name] < count} <= PASSING
    assert check_repository(settings_of(kept.root), digests=True, repair=False) == []


def test_its_backup_is_restored_with_what_came_later_and_a_newer_version_leads_back(
    kept: Kept, tmp_path: Path, run: Any
) -> None:
    restored, again = tmp_path / "restored", tmp_path / "again"
    with newer(tmp_path / "newer", *COLUMN):
        run("restore", str(kept.backup), "--root", str(restored), "--ledger", str(kept.root))
        assert {"version_num": NEWER} in read_rows(restored, "SELECT version_num FROM alembic_version")
    assert instances(restored) == kept.instances
    assert "install the newer one" in run("restore", str(restored), "--root", str(again)).err
    assert not again.exists()
    with newer(tmp_path / "still newer", *COLUMN):
        assert downgrade(restored / FILE_NAME, kept.schema) == (NEWER, kept.schema)
    upgrade(restored / FILE_NAME)
    assert check_repository(settings_of(restored), digests=True, repair=False) == []
    assert instances(restored) == kept.instances

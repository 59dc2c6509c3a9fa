"""`doctor` refuses the roots that a start refuses, with its words; what is owed is one list."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node.archive.root import MARKER
from node.cli.run.doctor import CHECKS, Site
from node.control.node import Node
from node.control.repository import Repository
from node.control.root import REBUILDING_FILE
from node.errors import VoxelnodeError
from node.files.acknowledged import Acknowledged
from node.index.rows.about_keys import COPYING, MOVED, STORE, STORE_SPOOLED
from node.index.rows.place import FILE_NAME
from node.journal.inspection import VERSION, Segment
from node.settings.model import Settings
from tests import make
from tests.integration.conftest import bring
from tests.made_once import copy_root, lose_index
from tests.preloaded import run
from tests.rows import write_rows


def rows(*statements: str) -> Callable[[Path], None]:
    return lambda root: [write_rows(root, statement) for statement in statements].clear()


def about(*keys: str) -> Callable[[Path], None]:
    return rows(*(f"INSERT INTO about (key, value) VALUES ('{key}', 'yes')" for key in keys))


def overwrite(root: Path, kept: int = 0) -> None:
    """Write over a file, as a disk does; `kept`: but its first bytes."""
    write_rows(root, "UPDATE about SET value = 'no' WHERE key = 'closed'")  # as if it had been killed
    write_rows(root, "PRAGMA wal_checkpoint(TRUNCATE)")
    with (root / FILE_NAME).open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(kept)
        file.write(b"\xa5" * (size - kept))


def of_newer_journal(root: Path) -> None:
    for path in root.glob("journal/*.journal"):
        head = Segment(path).head
        assert head is not None
        with path.open("r+b") as file:
            file.write(replace(head, version=VERSION + 1).encoded())


def emptied(name: str) -> Callable[[Path], object]:
    return lambda root: (shutil.rmtree(root / name), (root / name).mkdir())


HARMS: dict[str, Callable[[Path], object]] = {
    "of a version before 0.2": rows("UPDATE alembic_version SET version_num = '0001' WHERE version_num = 'r0001'"),
    "no database": overwrite,
    "damaged after a crash": lambda root: overwrite(root, (root / FILE_NAME).stat().st_size // 2),
    "moved": about(MOVED),
    "an unfinished copy": about(COPYING),
    "of a newer version": rows("UPDATE alembic_version SET version_num = 'r9999' WHERE version_num = 'r0001'"),
    "lost": lose_index,
    "half rebuilt": lambda root: (root / REBUILDING_FILE).write_text("{}"),
    "a journal of a newer version": of_newer_journal,
    "a store that is not in the configuration": about(STORE, STORE_SPOOLED),
    "a mount point": emptied("objects"),
    "a folder of another root": lambda root: (root / "journal" / MARKER).write_text("another\njournal - 1\n"),
    "a file": lambda root: (shutil.rmtree(root), root.write_bytes(b"")),
    "an empty folder": emptied(""),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "root"
    with Repository(settings_of(root)) as repository:
        bring(repository.ingest, *make.ct_series(3))
    return root


@pytest.fixture
def settings(filled: Path, tmp_path: Path) -> Settings:
    """Of a copy, which has served."""
    copy_root(filled, tmp_path / "root")
    settings = settings_of(tmp_path / "root")
    Repository(settings).close()
    return settings


def settings_of(root: Path) -> Settings:
    return Settings.model_validate({"storage": {"root": root, "reserve_bytes": 0}, "web": {"enabled": False}})


def broken(settings: Settings) -> set[str]:
    findings = [row for check in CHECKS for row in check.findings(Site(settings)) if row["state"] == "broken"]
    assert all(row["remedy"] for row in findings)
    return {row["found"] for row in findings}


@pytest.mark.slow
@pytest.mark.sqlite("damages the file")
@pytest.mark.parametrize("harm", HARMS)
def test_what_a_start_refuses_the_doctor_refuses_with_the_same_words(settings: Settings, harm: str) -> None:
    assert broken(settings) == set()
    HARMS[harm](settings.storage.root)
    said = broken(settings)
    with pytest.raises(VoxelnodeError) as refused:
        Node(settings, root_maker="voxelnode serve --create")
    assert str(refused.value) in said
    assert "agree" not in run("fsck", "--root", settings.storage.root).stdout


def owe(repository: Repository, what: str) -> list[str]:
    """Have the index owe something; by what it is named."""
    index, now = repository.index, repository.index.now()
    with index.reading() as view:
        files = list(view.files.of_instances())[: 2 * (what == "files")]
    for row in files[:1]:  # the other one is damaged
        (repository.archive.root / row.key).unlink()
    index.instances.mark_files([row.key for row in files], missing=True, now=now)
    if what == "an instance":
        of = "1.2.3", "1.2", "1.2.4", "0" * 64, "dicom", "CT1", "10.0.0.7", now.isoformat()
        index.lost.record([Acknowledged(*of)], now)
    if what == "a gap":
        index.lost.note_gap("records 3 to 9 are missing", now)
    named = {"an instance": ["1.2.3"], "a gap": ["records 3 to 9 are missing"]}
    return named.get(what, [row.sop_instance_uid for row in files])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nothing", "files", "an instance", "a gap"])
def test_every_command_that_knows_what_is_owed_reads_one_list(settings: Settings, what: str) -> None:
    root = settings.storage.root
    with Repository(settings) as repository:
        owed = owe(repository, what)
    listed, compared, judged = (run(*words, "--root", root) for words in (("lost", "list"), ("fsck",), ("doctor",)))
    assert {listed.returncode, compared.returncode, judged.returncode} == {int(bool(owed))}
    assert ("agree" in compared.stdout) is not bool(owed)
    assert ("lost list" in compared.stdout) is bool(owed)
    rows = json.loads(run("lost", "list", "--root", root, "--json").stdout)
    assert sorted(row.get("sop_instance_uid") or row["detail"] for row in rows) == sorted(owed)
    facts = json.loads(run("status", "--root", root, "--json").stdout)
    assert facts["lost_instances"] + facts["missing_files"] + len(facts["journal_gaps"]) == len(owed)

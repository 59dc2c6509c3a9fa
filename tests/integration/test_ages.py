"""A root whose parts are of different ages: a disk was put back as it was, emptied, lost, or accepted by a person.

Each version that was acknowledged is whole under a row, named as missing or lost, or a gap is noted.
"""

import hashlib
import shutil
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import pytest
from pydicom import FileDataset

from node.archive.intact import data_set_offset
from node.archive.root import MARKER
from node.control.care import check_repository
from node.control.repository import Repository
from node.conversion.pipeline import convert
from node.conversion.series import SeriesDamaged
from node.receive.ingest import Origin
from node.runtime.failpoints import RECOVERING, VARIABLE
from tests import make
from tests.converting import convert_series
from tests.crash.disk import keep_marks
from tests.crash.harness import Node
from tests.ingest import large_instance, settings_of
from tests.integration.conftest import QUICK, announced, bring, data_set_bytes
from tests.made_once import empty_folder
from tests.rows import view_rows

pytestmark = pytest.mark.sqlite("puts files of the index back")

FOLDERS = ("journal", "acknowledged", "objects", "quarantine", "incoming", "volumes")
PARTS = ("index", *FOLDERS)
WALK = [
    *((how, (part,)) for how in ("bare", "accepted") for part in FOLDERS),
    *(("files", parts) for parts in (("objects",), ("volumes",), ("objects", "acknowledged"))),
    *(("old", parts) for count in (0, 1, 2) for parts in combinations(PARTS, count)),
    ("old", ("index", "journal", "acknowledged")),
    *(("old", ("index", "acknowledged", part)) for part in ("objects", "quarantine")),
    ("old", ("objects", "quarantine", "incoming")),
    ("old", PARTS),
    *(("mixed", parts) for parts in product(("index", "objects"), FOLDERS) if len({*parts}) > 1),
]
"""What happened to the disks of which parts; `mixed`: the first is of yesterday, and the second was emptied."""


@dataclass
class Days:
    """Copies of a root: of its first day, and of the second one, after a clean end and after a kill.

    `sent`: by copy, the UID and the digest of each acknowledged version.
    """

    folder: Path
    sent: dict[str, set[tuple[str, str]]]


def version(ds: FileDataset) -> tuple[str, str]:
    return str(ds.SOPInstanceUID), hashlib.sha256(data_set_bytes(ds)).hexdigest()


def converted(repository: Repository) -> None:
    """Convert what is there in this process."""
    index, later = repository.index, lambda: repository.index.now().replace(year=2100)
    while (claimed := index.series.claim_due(later())) is not None:
        try:
            convert_series(claimed, repository.archive, index, QUICK, convert, later)
        except SeriesDamaged as damage:
            index.series.record_damaged(claimed, str(damage), damage.references, later())


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    folder = tmp_path_factory.mktemp("days")
    root, first, second, third = folder / "root", make.ct_series(4), make.ct_series(3), make.ct_series(2)
    large = [large_instance() for _ in range(3)]
    with Repository(settings_of(root, "replace")) as repository:
        bring(repository.ingest, *first, large[0])
        converted(repository)
    shutil.copytree(root, folder / "old")
    again = [make.corrected(ds) for ds in first[:2]]
    with Repository(settings_of(root, "replace")) as repository:
        bring(repository.ingest, *second, *again, large[1])
        converted(repository)
    shutil.copytree(root, folder / "clean")
    sent = {version(ds) for ds in (*first, *second, *again, *large[:2])}
    with Repository(settings_of(root, "replace")) as repository:
        repository.applier.stop()
        for ds in (*third, large[2]):
            incoming = repository.ingest.begin(announced(ds), Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
            incoming.take_fragment(data_set_bytes(ds))
            incoming.finish()
        shutil.copytree(root, folder / "killed")
    return Days(folder, {"clean": sent, "killed": sent | {version(ds) for ds in (*third, large[2])}})


def harm(root: Path, how: str, parts: tuple[str, ...], old: Path) -> None:
    """Do to parts of a root what happened to their disk; nothing else looks like a copy."""
    for part in parts:
        if how == "bare" or (how == "mixed" and part != parts[0]):
            empty_folder(root / part)
        elif part == "index":
            for path in root.glob("index.sqlite*"):
                path.unlink()
            shutil.copy2(old / "index.sqlite", root)
        else:
            if how == "files":  # those of yesterday are there, below the marker of today
                empty_folder(root / part)
                shutil.copytree(old / part, root / part, ignore=shutil.ignore_patterns(MARKER), dirs_exist_ok=True)
                continue
            shutil.rmtree(root / part)
            if how in ("old", "mixed"):
                shutil.copytree(old / part, root / part)
    keep_marks(root)
    if how == "accepted":  # as the refusal says
        for part in parts:
            (root / part).mkdir()
            shutil.copy(root / MARKER, root / part)


def digests(root: Path) -> dict[str, str]:
    """The digests of the files that rows and conflicts name, by their paths."""
    paths = [Path(row["path"]) for row in view_rows(root, "SELECT path FROM v_images")]
    paths += [Path(row["path"]) for row in view_rows(root, "SELECT path FROM v_conflicts WHERE path IS NOT NULL")]
    return {
        str(path): hashlib.sha256(path.read_bytes()[data_set_offset(path) or 0 :]).hexdigest()
        for path in paths
        if path.exists()
    }


def silent(repository: Repository, root: Path, sent: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The acknowledged versions of which nothing is said."""
    marked = view_rows(root, "SELECT sop_instance_uid, sha256 FROM v_images WHERE file_missing")
    said = {(row["sop_instance_uid"], row["sha256"]) for row in marked}
    said |= {(one.sop_instance_uid, one.sha256) for one in repository.index.lost.all()}
    whole = set(digests(root).values())
    return {one for one in sent - said if one[1] not in whole}


@pytest.mark.sample(3)
@pytest.mark.parametrize("end", ["clean", "killed"])
@pytest.mark.parametrize(("how", "parts"), WALK)
def test_of_each_acknowledged_version_it_is_said_what_became_of_it(
    days: Days, tmp_path: Path, how: str, parts: tuple[str, ...], end: str
) -> None:
    root, new = tmp_path / "root", make.ct_series(2)
    shutil.copytree(days.folder / end, root)
    harm(root, how, parts, days.folder / "old")
    with Repository(settings_of(root, "replace")) as repository:
        gaps, is_all_old = repository.index.lost.gaps(), parts == PARTS
        assert is_all_old or gaps or silent(repository, root, days.sent[end]) == set()
        with repository.index.reading() as view:
            compared = view.compared or ""
        odd = {*(parts[:1] if how == "mixed" else parts)}
        by_length = {"acknowledged"} if how in ("bare", "files") else odd  # the other markers are those of today
        assert {part for part in odd if part in compared} == (set() if is_all_old else odd & by_length)
        assert len(gaps) <= ((end == "killed" and "journal" in parts) or {"index"} < {*parts}), gaps
        bring(repository.ingest, *new)
        assert silent(repository, root, {version(ds) for ds in new}) == set()
        converted(repository)
    with Repository(settings_of(root, "replace")) as repository:
        assert (repository._odd, repository.index.lost.gaps()) == ({}, gaps)
    found = {one.kind for one in check_repository(settings_of(root, "replace"), digests=True, repair=False)}
    for_the_scrub = {"volume-missing"} if how == "files" and end == "killed" else set()  # an earlier start has compared
    without_sources = {"volume-missing"} if {"objects", "volumes"} <= {*parts} else set()
    assert found <= {
        "instance-lost",
        "volume-kept",
        *for_the_scrub,
        *without_sources,
        *(["journal-gap"] if gaps else []),
    }


@pytest.mark.sample(0, 3)
@pytest.mark.parametrize("point", RECOVERING)
def test_after_a_start_that_died_the_next_one_compares_as_well(days: Days, tmp_path: Path, point: str) -> None:
    root = tmp_path / "root"
    shutil.copytree(days.folder / "killed", root)
    harm(root, "old", ("objects", "quarantine"), days.folder / "old")
    with Node(root, environment={"VOXELNODE_STORAGE__OVERWRITE_POLICY": "replace"}) as node:
        for _ in range(2):
            node.start({VARIABLE: point})
            node.kill()
        assert node.start()
    with Repository(settings_of(root, "replace")) as repository:
        assert (repository._odd, repository.index.lost.gaps()) == ({}, [])
        assert silent(repository, root, days.sent["killed"]) == set()


def test_a_journal_that_ends_before_the_index_is_damaged(days: Days, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(days.folder / "killed", root)
    for path in (days.folder / "old" / "journal").iterdir():  # its marker stays
        shutil.copy2(path, root / "journal") if path.name != MARKER else None
    [found] = check_repository(settings_of(root, "replace"), digests=False, repair=False)
    assert (found.kind, "may be missing" in found.detail) == ("journal-damaged", True)
    with Repository(settings_of(root, "replace")) as repository:
        assert len(repository.index.lost.gaps()) == 1

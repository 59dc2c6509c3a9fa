"""A proof of a backup restores it, and names everything that it does not give back."""

import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node.archive.proof import Proof, last_proof, note
from node.conversion.out_folder import UNLOCKED_SECONDS
from node.files.acknowledged import segments
from tests.crash.journal import Sent, new_series
from tests.ingest import received, settings_of
from tests.integration.conftest import flip
from tests.integration.test_acknowledged import convert_all
from tests.made_once import save_index
from tests.preloaded import run

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("a proof restores an index in SQLite only, and says so")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Sent]]:
    """A root with volumes of two series, its backup, and what was sent."""
    folder = tmp_path_factory.mktemp("made")
    root, sent = folder / "root", [*new_series(6), *new_series(5)]
    settings = settings_of(root)
    quick = settings.model_copy(update={"series": settings.series.model_copy(update={"quiet_seconds": 0.0})})
    received(quick, sent)
    convert_all(quick)
    copy = folder / "backup"
    copy.mkdir()
    save_index(root, copy / "index.sqlite")
    shutil.copytree(root, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("index.sqlite*", "work", "*.sock"))
    return root, copy, sent


@pytest.fixture
def backup(made: tuple[Path, Path, list[Sent]], tmp_path: Path) -> Iterator[Path]:
    """A backup that a test may damage."""
    folder = tmp_path / "disk" / "backup"
    shutil.copytree(made[1], folder)
    yield folder
    assert list(folder.glob(".*")) == [], "the scratch root was not removed"


def prove(backup: Path, root: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = run("backup", "--prove", backup, "--root", root, "--json", *options)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def status(root: Path) -> Any:
    return json.loads(run("status", "--json", "--root", root, check=True).stdout)["backup_proof"]


def test_a_whole_backup_is_proved_and_not_changed(made: tuple[Path, Path, list[Sent]], backup: Path) -> None:
    root, _, sent = made
    repack_volume(backup)
    before = contents(backup)
    code, found = prove(backup, root)
    assert (code, found["differences"]) == (0, [])
    assert (found["instances"], found["converted"], found["not_comparable"]) == (len(sent), 2, 0)
    assert contents(backup) == before
    proof = last_proof(root)
    assert proof.ok
    assert proof.succeeded_at == proof.ended_at
    assert status(root)["instances"] == len(sent)
    assert f"{len(sent)} instances whole" in run("status", "--root", root, check=True).stdout


def test_a_backup_without_volumes_is_whole(made: tuple[Path, Path, list[Sent]], backup: Path) -> None:
    shutil.rmtree(backup / "volumes")
    code, found = prove(backup, made[0])
    assert (code, found["differences"], found["converted"]) == (0, [], 2)


def test_a_proof_keeps_its_copy_to_itself_whatever_the_mode_of_the_backup(
    made: tuple[Path, Path, list[Sent]], backup: Path
) -> None:
    backup.chmod(0o755)
    done = run("backup", "--prove", backup, "--root", made[0], "--sample", "0", check=True)
    assert "open_to_others" not in done.stderr


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def an_instance(backup: Path) -> Path:
    return sorted(backup.glob("objects/*/*.dcm"))[0]


def a_volume(backup: Path) -> Path:
    return sorted(backup.glob("volumes/*/*/*/*.nii.gz"))[0]


def flip_instance(backup: Path) -> str:
    flip(an_instance(backup))
    return str(an_instance(backup).relative_to(backup))


def remove_instance(backup: Path) -> str:
    path = an_instance(backup)
    path.unlink()
    return str(path.relative_to(backup))


def flip_volume(backup: Path) -> str:
    flip(a_volume(backup))
    return str(a_volume(backup).relative_to(backup))


def record(backup: Path, statement: str, *values: object) -> None:
    """Change one row of the index of a backup."""
    with closing(sqlite3.connect(backup / "index.sqlite")) as index, index:
        assert index.execute(statement, values).rowcount == 1


def other_volume(backup: Path) -> str:
    """A volume whose row agrees with its bytes, and that no conversion makes of these instances."""
    path, key = a_volume(backup), flip_volume(backup)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record(backup, "UPDATE volumes SET sha256 = ? WHERE path = ?", digest, key)
    return key


def repack_volume(backup: Path) -> None:
    """A volume with the same voxels in other bytes, as igzip makes it now and then, and its row."""
    path = a_volume(backup)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9, mtime=0))
    values = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, str(path.relative_to(backup))
    record(backup, "UPDATE volumes SET sha256 = ?, bytes = ? WHERE path = ?", *values)


def other_instance(backup: Path) -> str:
    """An instance whose row agrees with its bytes, which are not those that were acknowledged."""
    path = an_instance(backup)
    flip(path)
    key = str(path.relative_to(backup))
    with sqlite3.connect(backup / "index.sqlite") as index:
        [(offset,)] = index.execute("SELECT data_set_offset FROM images WHERE key = ?", (key,)).fetchall()
        digest = hashlib.sha256(path.read_bytes()[offset:]).hexdigest()
        index.execute("UPDATE images SET sha256 = ? WHERE key = ?", (digest, key))
    index.close()
    return key


def forget_instance(backup: Path) -> str:
    """An instance that neither the index nor the files have, and that was acknowledged."""
    path = an_instance(backup)
    record(backup, "DELETE FROM images WHERE key = ?", str(path.relative_to(backup)))
    path.unlink()
    return "acknowledged"


def damage_ledger(backup: Path) -> str:
    [segment] = segments(backup / "acknowledged")
    flip(segment, 30)
    return f"acknowledged/{segment.name}"


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (flip_instance, "file-altered"),
        (remove_instance, "file-missing"),
        (flip_volume, "volume-altered"),
        (other_volume, "conversion-differs"),
        (other_instance, "digest-differs"),
        (forget_instance, "instance-lost"),
        (damage_ledger, "ledger-damaged"),
    ],
)
def test_what_a_backup_does_not_give_back_is_named(
    made: tuple[Path, Path, list[Sent]], backup: Path, damage: Callable[[Path], str], kind: str
) -> None:
    root = made[0]
    note(root, Proof("2026-01-02T00:00:00+00:00", "2026-01-02T00:00:00+00:00", "before"))
    named = damage(backup)
    code, found = prove(backup, root)
    assert code == 1
    assert (kind, named) in {(row["kind"], row["path"]) for row in found["differences"]}
    proof = last_proof(root)
    assert not proof.ok
    assert proof.succeeded_at == "2026-01-02T00:00:00+00:00", "the last success stays known"
    assert status(root)["differences"] == len(found["differences"])


def test_a_backup_that_is_missing_is_a_failure_that_stays(made: tuple[Path, Path, list[Sent]], tmp_path: Path) -> None:
    root = made[0]
    done = run("backup", "--prove", tmp_path / "gone", "--root", root)
    assert done.returncode != 0
    assert "has no index.sqlite" in done.stderr
    assert "has no index.sqlite" in status(root)["problem"]


@pytest.mark.parametrize("case", ["root", "scratch"])
def test_a_proof_does_not_touch_the_root(made: tuple[Path, Path, list[Sent]], backup: Path, case: str) -> None:
    root = made[0]
    words = [root] if case == "root" else [backup, "--scratch", root / "here"]
    assert run("backup", "--prove", *words, "--root", root).returncode == 2
    assert not (root / "here").exists()


def test_the_scratch_root_of_a_killed_proof_goes_with_a_next(made: tuple[Path, Path, list[Sent]], backup: Path) -> None:
    left = backup / ".proving-left"
    (left / "root").mkdir(parents=True)
    moment = time.time() - UNLOCKED_SECONDS - 1
    os.utime(left, (moment, moment))
    assert prove(backup, made[0], "--sample", "0")[0] == 0

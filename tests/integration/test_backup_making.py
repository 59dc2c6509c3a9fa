"""`voxelnode backup` makes a backup and brings it up to date, and `voxelnode restore` makes a root of it."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from node.api import Settings, reading
from node.archive.root import MARKER
from node.control.repository import Repository
from node.extensions.backup.making import holding_backups, make
from node.files import acknowledged
from node.settings.core import OverwritePolicy, Storage
from tests.crash.journal import Sent, new_series
from tests.crash.small_disk import another_disk, fill, mounted
from tests.ingest import received, served, settings_of
from tests.integration.conftest import flip
from tests.integration.test_acknowledged import convert_all
from tests.integration.test_backup import POLICIES, Senders, require
from tests.made_once import copy_root, empty_folder
from tests.preloaded import run

pytestmark = pytest.mark.sqlite("a backup copies an index in SQLite only, and says so")

LINKED = "files of the backup are hard links"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sent]]:
    """A root with volumes of two series, and what was sent."""
    root, sent = tmp_path_factory.mktemp("made") / "root", [*new_series(6), *new_series(5)]
    receive(root, sent)
    return root, sent


@pytest.fixture
def root(made: tuple[Path, list[Sent]], tmp_path: Path) -> Path:
    copy_root(made[0], tmp_path / "root")
    return tmp_path / "root"


def receive(root: Path, sent: list[Sent]) -> None:
    settings = settings_of(root)
    quick = settings.model_copy(update={"series": settings.series.model_copy(update={"quiet_seconds": 0.0})})
    received(quick, sent)
    convert_all(quick)


def backup(folder: Path, root: Path, *options: str) -> dict[str, Any]:
    done = run("backup", folder, "--root", root, "--json", *options)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "status": done.returncode}


def refused(*arguments: object) -> str:
    done = run(*arguments)
    assert done.returncode in (1, 2), done.stdout
    return done.stderr


def digests(folder: Path) -> dict[str, str]:
    """The files of instances and volumes, each with its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for inner in ("objects", "volumes")
        for path in folder.glob(f"{inner}/**/*")
        if path.is_file() and path.name != MARKER
    }


@pytest.mark.long
def test_a_second_backup_copies_only_what_is_new(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    first = backup(folder, root)
    assert (first["status"], first["ok"], first["instances"], first["converted"]) == (0, True, 11, 2)
    assert first["made"]["linked"] == 11
    assert first["made"]["copied"] >= len(digests(root)) - 11
    assert (folder / "index.sqlite").stat().st_mode & 0o077 == 0
    assert digests(folder) == digests(root)
    for path in digests(root):
        assert (folder / path).stat().st_mtime_ns == (root / path).stat().st_mtime_ns
    again = backup(folder, root)
    changed = {"audit.jsonl", "backup-proof.json"}
    assert again["made"] == {"copied": len(changed), "linked": 0, "bytes": again["made"]["bytes"], "removed": 0}
    before = set(digests(root))
    receive(root, new_series(3))
    third = backup(folder, root)
    assert third["made"]["linked"] == 3
    new_volumes = [path for path in digests(root).keys() - before if path.startswith("volumes")]
    ledger = 1
    assert third["made"]["copied"] == len(changed) + ledger + len(new_volumes)
    assert digests(folder) == digests(root)
    assert LINKED in run("backup", folder, "--no-prove", "--root", root).stdout, "links of earlier runs count"


@pytest.mark.slow
def test_on_another_disk_a_backup_has_copies(root: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        folder = another_disk(tmp_path, stack) / "backup"
        done = backup(folder, root)
        assert (done["status"], done["made"]["linked"]) == (0, 0)
        assert digests(folder) == digests(root)
        assert backup(folder, root, "--no-prove")["made"]["copied"] == 2
        assert LINKED not in run("backup", folder, "--no-prove", "--root", root).stdout


@pytest.mark.slow
def test_objects_on_another_disk_than_the_root_are_in_the_backup(root: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = another_disk(tmp_path, stack)
        shutil.move(root / "objects", place)
        (root / "objects").symlink_to(place / "objects")
        assert backup(tmp_path / "backup", root)["status"] == 0
        assert digests(tmp_path / "backup") == digests(root)


@pytest.mark.slow
def test_what_was_deleted_goes_from_the_backup(root: Path, made: tuple[Path, list[Sent]], tmp_path: Path) -> None:
    folder, study = tmp_path / "backup", made[1][0].study_instance_uid
    backup(folder, root, "--no-prove")
    (folder / "wheel.whl").write_text("of somebody")
    run("delete", study, "--erase", "--yes", "--root", root, check=True)
    done = backup(folder, root)
    assert (done["status"], done["instances"]) == (0, 5)
    assert done["made"]["removed"] >= 7
    assert digests(folder) == digests(root)
    assert not any(study in str(path) for path in folder.rglob("*"))
    assert (folder / "wheel.whl").exists()


@pytest.mark.slow
def test_what_is_deleted_while_the_backup_is_made_is_no_difference(
    root: Path, made: tuple[Path, list[Sent]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, study = tmp_path / "backup", made[1][0].study_instance_uid

    def delete(point: str) -> None:
        if point == "backup-index-copied":
            run("delete", study, "--erase", "--yes", "--root", root, check=True)

    with monkeypatch.context() as patched:
        patched.setattr("node.extensions.backup.making.reached", delete)
        make(Settings(storage=Storage(root=root)), folder)
    done = run("backup", "--prove", folder, "--root", root, "--json", "--sample", "0")
    assert json.loads(done.stdout)["differences"] == []


@pytest.mark.slow
def test_a_bit_that_flipped_in_the_backup_is_found_until_the_file_is_removed(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    backup(folder, root, "--no-prove")
    path = sorted(folder.glob("objects/*/*.dcm"))[0]
    status, content = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        done = backup(folder, root)
        assert done["status"] == 1
        assert ("file-altered", str(path.relative_to(folder))) in {
            (row["kind"], row["path"]) for row in done["differences"]
        }
    path.unlink()
    assert backup(folder, root)["status"] == 0


@pytest.mark.slow
def test_what_is_damaged_in_the_root_stays_whole_in_the_backup_until_it_is_taken_back(
    root: Path, made: tuple[Path, list[Sent]], tmp_path: Path
) -> None:
    folder = tmp_path / "it's a backup"
    run("delete", made[1][6].series_instance_uid, "--yes", "--root", root, check=True)  # to the trash
    backup(folder, root, "--no-prove")
    before = digests(folder)
    objects = {str(path.relative_to(root)) for path in root.glob("objects/*/*")}
    with reading(root) as index:
        gone, altered, *_ = (root / file.key for file in index.files.of_instances())
        [volume] = (root / file.key for file in index.files.of_volumes() if file.key.endswith(".gz"))
    for path in (altered, volume):
        content = path.read_bytes()
        path.unlink()  # not the copy in the backup, which is the same file
        path.write_bytes(content)
        flip(path)
    gone.unlink()
    done = backup(folder, root, "--sample", "0")
    assert (done["status"], {row["kind"] for row in done["differences"]}) == (1, {"root-damaged"})
    assert {row["path"] for row in done["differences"]} == {
        str(path.relative_to(root)) for path in (gone, altered, volume)
    }
    last = run("backup", folder, "--sample", "0", "--root", root).stdout.splitlines()[-1]
    assert last.endswith("; no difference in the backup; 3 files missing or damaged in the root")
    (root / "objects").rename(root.parent / "disk")
    for appears in (list, (root / "objects").mkdir):  # a disk that is not mounted, without its mount point and with it
        appears()
        assert "if its disk is not mounted" in run("backup", folder, "--no-prove", "--root", root).stderr
        assert digests(folder) == before
    (root / "objects").rmdir()
    (root.parent / "disk").rename(root / "objects")
    empty_folder(root / "objects")
    done = backup(folder, root, "--no-prove")
    assert objects <= {row["path"] for row in done["differences"]}
    assert digests(folder) == before
    for row in done["differences"]:
        program, *words = shlex.split(row["detail"].split("`")[1])
        if program == "voxelnode":
            run(*words, check=True)
        else:
            (root / row["path"]).parent.mkdir(exist_ok=True)
            subprocess.run([program, *words], check=True)
    run("fsck", "--hash", "--root", root, check=True)
    run("trash", "empty", "--all", "--yes", "--root", root, check=True)
    assert backup(folder, root, "--sample", "0")["status"] == 0
    assert digests(folder) == digests(root), "what was in the trash is gone"


def test_a_sealed_segment_of_the_ledger_stays_whole_in_the_backup(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder = Settings(storage=Storage(root=root)), tmp_path / "backup"
    monkeypatch.setattr(acknowledged, "SEGMENT_ENTRIES", 1)
    for _ in range(3):
        received(settings, new_series(1))
    assert make(settings, folder).kept == []
    altered, gone, *_ = acknowledged.segments(root / acknowledged.FOLDER)
    before = {path: path.read_bytes() for path in (altered, gone)}
    flip(altered, 30)
    gone.unlink()
    assert {one.path for one in make(settings, folder).kept} == {str(path.relative_to(root)) for path in before}
    for path, content in before.items():
        assert (folder / path.relative_to(root)).read_bytes() == content


@pytest.mark.slow
def test_a_restored_root_is_as_the_backup(root: Path, made: tuple[Path, list[Sent]], tmp_path: Path) -> None:
    folder, new = tmp_path / "backup", tmp_path / "new"
    backup(folder, root, "--no-prove")
    before = digests(root)
    shutil.rmtree(root)
    (new / "lost+found").mkdir(parents=True)
    (new / ".restoring" / "objects").mkdir(parents=True)  # of a restore that was killed
    done = run("restore", folder, "--root", new)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"voxelnode serve --root={new}" in done.stdout
    assert served(new) == {one.sop_instance_uid: one.sha256 for one in made[1]}
    assert digests(new) == before
    assert backup(folder, new)["status"] == 0, "it is the same root, so its backups go on"


@pytest.mark.slow
def test_a_backup_that_lacks_most_files_is_restored_only_by_force(root: Path, tmp_path: Path) -> None:
    folder, new = tmp_path / "backup", tmp_path / "new"
    backup(folder, root, "--no-prove")
    shutil.rmtree(folder / "objects")
    assert "repeat the command with --force" in refused("restore", folder, "--root", new)
    assert not (new / "index.sqlite").exists()
    done = run("restore", folder, "--root", new, "--force")
    assert done.returncode == 1
    assert "the backup has no file of 11 instances: have them sent again" in done.stdout
    lost = run("lost", "list", "--root", new)
    assert lost.returncode == 1
    assert "the files of 11 instances" in lost.stdout


@pytest.mark.slow
def test_the_ledger_of_the_damaged_root_tells_what_is_lost_since_the_backup(root: Path, tmp_path: Path) -> None:
    folder, since = tmp_path / "backup", new_series(2)
    backup(folder, root, "--no-prove")
    receive(root, since)
    shutil.rmtree(root / "objects")
    for name, options in (("without", []), ("with", ["--ledger", root / "acknowledged"])):
        run("restore", folder, "--root", tmp_path / name, *options)
        lost = json.loads(run("lost", "list", "--root", tmp_path / name, "--json").stdout)
        expected = {one.sop_instance_uid for one in since} if options else {None}  # a gap names no instance
        assert {one.get("sop_instance_uid") for one in lost} == expected


@pytest.mark.slow
def test_a_folder_that_is_not_for_this_root_is_refused_and_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    other, folder = tmp_path / "other", tmp_path / "backup"
    receive(other, new_series(1))
    backup(folder, other, "--no-prove")
    before = digests(folder)
    assert "the backup of another root" in refused("backup", folder, "--root", root)
    assert digests(folder) == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert "name an empty folder" in refused("backup", tmp_path / "photos", "--root", root)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    assert "inside the root" in refused("backup", root / "backup", "--root", root)
    assert not (root / "backup").exists()
    assert "is not a root" in refused("backup", tmp_path / "new", "--root", tmp_path / "photos")


@pytest.mark.slow
def test_a_restore_refuses_what_it_would_mix_up(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    backup(folder, root, "--no-prove")
    before = digests(root)
    assert "is not empty" in refused("restore", folder, "--root", root)
    assert digests(root) == before
    assert "inside the backup" in refused("restore", folder, "--root", folder / "new")
    assert "no index.sqlite" in refused("restore", tmp_path / "gone", "--root", tmp_path / "new")
    assert "neither a ledger nor a journal" in refused(
        "restore", folder, "--root", tmp_path / "new", "--ledger", tmp_path
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["VOXELNODE_INDEX__URL=postgresql+psycopg://db/x", "VOXELNODE_STORAGE__URL=file:///x"])
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_root_that_is_not_only_in_its_folders_is_refused(tmp_path: Path, key: str, command: str) -> None:
    name, _, url = key.partition("=")
    done = run(command, tmp_path / "backup", "--root", tmp_path / "root", environment={name: url})
    assert done.returncode == 2
    assert "docs/backup.md" in done.stderr, done.stderr


@pytest.mark.slow
def test_one_backup_of_a_root_is_made_at_a_time(root: Path, tmp_path: Path) -> None:
    with holding_backups(root):
        assert "wait until it has ended" in refused("backup", tmp_path / "backup", "--root", root)
    assert backup(tmp_path / "backup", root, "--no-prove")["status"] == 0


@pytest.mark.slow
def test_a_full_disk_leaves_the_backup_before_and_no_half_of_the_new_one(
    root: Path, made: tuple[Path, list[Sent]], tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "size=64m"):
        backup(folder, root, "--no-prove")
        receive(root, new_series(3))
        fill(folder / "ballast")
        for room in (0, (folder / "index.sqlite").stat().st_size + 65536):
            os.truncate(folder / "ballast", (folder / "ballast").stat().st_size - room)
            assert "is as it was before" in refused("backup", folder, "--root", root)
            assert [path.name for path in folder.glob(".*")] == []
        (folder / "ballast").unlink()
        run("restore", folder, "--root", tmp_path / "new", check=True)
        assert served(tmp_path / "new").keys() == {one.sop_instance_uid for one in made[1]}
        assert backup(folder, root, "--no-prove")["status"] == 0


@pytest.mark.slow
def test_what_was_copied_before_the_machine_stopped_is_copied_again(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    [path, *_] = sorted(root.glob("objects/*/*.dcm"))
    left = folder / ".copying-of-another-boot" / path.relative_to(root)
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(path.stat().st_size))  # as a power cut leaves it
    shutil.copystat(path, left)
    assert backup(folder, root)["status"] == 0
    assert digests(folder) == digests(root)


@pytest.mark.slow
@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("policy", POLICIES[::-1])
def test_a_backup_has_all_that_was_acknowledged_before_whatever_comes_in_each_step(
    tmp_path: Path, policy: OverwritePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "root", tmp_path / "backup"
    settings = settings_of(root, policy)
    with Repository(settings) as repository:
        senders = Senders(repository)
        senders.take(*new_series(10))
        senders.go_on()
        make(settings, folder)
        senders.go_on()
        before = {uid: list(versions) for uid, versions in senders.versions.items()}

        steps = count()

        def go_on(point: str) -> None:
            number = next(steps)
            if number < 20:
                senders.go_on()
            if number % 7 == 0:
                repository.applier.checkpoint()

        with monkeypatch.context() as patched:
            patched.setattr("node.extensions.backup.making.reached", go_on)
            make(settings, folder)
    environment = {"VOXELNODE_STORAGE__OVERWRITE_POLICY": policy}
    done = run("backup", "--prove", folder, "--root", root, "--json", environment=environment)
    assert {row["kind"] for row in json.loads(done.stdout)["differences"]} == set()
    run("restore", folder, "--root", tmp_path / "new", check=True, environment=environment)
    require(tmp_path / "new", settings_of(tmp_path / "new", policy), before, senders.versions)

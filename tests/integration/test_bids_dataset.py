"""The folder of a data set: what it has after a change, after a kill at any step, and of what others did in it."""

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from isal import igzip

from node.errors import UsageError
from node.extensions.bids import dataset as dataset_module
from node.extensions.bids.dataset import opened
from node.extensions.bids.names import stem
from node.extensions.bids.rules import DatasetTable
from node.extensions.bids.sidecars import NiftiCopy
from node.extensions.bids.state import SessionChange, WantedVolume, read_state

PLACE = "sub-a/ses-01"


def names(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}


class Site:
    """A data set with one session, and volumes to put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"

    def volume(self, series: str, content: str = "", acq_time: str | None = "1900-01-01T08:00:00") -> WantedVolume:
        file = self.folder / f"{series}{content}.nii.gz"
        file.write_bytes(igzip.compress(f"{series}{content}".encode() * 100, mtime=0))
        image = NiftiCopy(file, hashlib.sha256(file.read_bytes()).hexdigest(), without_extension=True)
        return WantedVolume(series, 0, {".nii.gz": image, ".json": f'{{"of": "{series}{content}"}}'.encode()}, acq_time)

    def change(self, leave: tuple[str, ...] = (), dry_run: bool = False, **wanted: WantedVolume) -> SessionChange:
        """Make the session have `wanted`: T1w of each run."""
        by_stem = {self.stem(run): volume for run, volume in wanted.items()}
        with opened(self.out) as data:
            data.begin("mark", DatasetTable())
            data.add_participants({"sub-a": {}})
            change = data.change_session("a", "01", by_stem, ("study",), frozenset(leave), dry_run=dry_run)
            data.remove_participants(["a"])
        return change

    def stem(self, run: str) -> str:
        entities = {"sub": "a", "ses": "01", **({"run": run.removeprefix("run")} if run != "alone" else {})}
        return f"anat/{stem(entities, 'T1w')}"

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Inode, time and content of every file."""
        files = [self.out / name for name in names(self.out)]
        return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    def check(self) -> None:
        """Whatever was done: each image has its sidecar, tables name what is there, and nothing is half written."""
        folder = self.out / PLACE
        found = names(folder)
        images = {name for name in found if name.endswith(".nii.gz")}
        assert {name.replace(".nii.gz", ".json") for name in images} <= found
        state = read_state(folder)
        for name, entry in state.volumes.items():
            for extension, digest in entry.files.items():
                assert hashlib.sha256((folder / f"{name}{extension}").read_bytes()).hexdigest() == digest
        if images:
            rows = (folder / "sub-a_ses-01_scans.tsv").read_text().splitlines()[1:]
            assert {row.split("\t")[0] for row in rows} == images == {f"{name}.nii.gz" for name in state.volumes}
        subjects = {path.name for path in self.out.glob("sub-*")}
        table = self.out / "participants.tsv"
        assert subjects <= set(table.read_text().splitlines() if table.exists() else ())
        tops = {path.name for path in self.out.iterdir() if not path.name.startswith(".")}
        assert tops <= {"dataset_description.json", "README", "participants.tsv", "sub-a"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_second_run_changes_nothing_and_a_new_revision_replaces_its_files_alone(site: Site) -> None:
    first = site.change(run1=site.volume("s1"), run2=site.volume("s2"))
    assert (len(first.added), first.removed) == (2, [])
    site.check()
    before = site.snapshot()
    assert site.change(run1=site.volume("s1"), run2=site.volume("s2")) == SessionChange()
    assert site.snapshot() == before
    assert site.change(run1=site.volume("s1"), run2=site.volume("s2", "late"), dry_run=True).replaced
    assert site.snapshot() == before
    late = site.change(run1=site.volume("s1"), run2=site.volume("s2", "late"))
    assert late.replaced == [f"{PLACE}/{site.stem('run2')}"]
    after = site.snapshot()
    changed = {Path(name).name for name in after if after[name][:2] != before[name][:2]}
    assert {name for name in changed if "run-1" in name or name == "participants.tsv"} == set()
    site.check()


def test_names_move_with_their_files_and_rows(site: Site) -> None:
    site.change(alone=site.volume("s1"))
    scans = site.out / PLACE / "sub-a_ses-01_scans.tsv"
    scans.write_text("filename\tacq_time\tquality\n" + f"{site.stem('alone')}.nii.gz\tx\tgood\n")
    inode = (site.out / PLACE / f"{site.stem('alone')}.nii.gz").stat().st_ino
    change = site.change(run1=site.volume("s1"), run2=site.volume("s2"))
    assert change.renamed == [(f"{PLACE}/{site.stem('alone')}", f"{PLACE}/{site.stem('run1')}")]
    assert (site.out / PLACE / f"{site.stem('run1')}.nii.gz").stat().st_ino == inode
    assert scans.read_text().splitlines()[:2] == [
        "filename\tacq_time\tquality",
        f"{site.stem('run1')}.nii.gz\t1900-01-01T08:00:00\tgood",
    ]
    assert len(site.change(run2=site.volume("s1"), run1=site.volume("s2")).renamed) == 2
    site.check()
    assert b"s2" in (site.out / PLACE / f"{site.stem('run1')}.json").read_bytes()


def test_what_others_wrote_or_changed_stays(site: Site) -> None:
    site.change(run1=site.volume("s1"), run2=site.volume("s2"))
    folder = site.out / PLACE
    (folder / "func").mkdir()
    (folder / "func" / "sub-a_ses-01_task-x_events.tsv").write_text("onset\tduration\n")
    (folder / "dangling").symlink_to("../.git/annex/objects/x")
    defaced = folder / f"{site.stem('run1')}.nii.gz"
    defaced.write_bytes(b"defaced")
    (site.out / "participants.tsv").write_text("participant_id\tgroup\nsub-a\tpatient\nsub-b\tcontrol\n")
    change = site.change(run1=site.volume("s1", "new"), run2=site.volume("s2", "new"), run3=site.volume("s3"))
    assert [path for path, _ in change.conflicts] == [f"{PLACE}/{site.stem('run1')}.nii.gz"]
    assert change.replaced == [f"{PLACE}/{site.stem('run2')}"]
    assert defaced.read_bytes() == b"defaced"
    assert {"func/sub-a_ses-01_task-x_events.tsv", "dangling"} <= names(folder)
    assert (site.out / "participants.tsv").read_text() == "participant_id\tgroup\nsub-a\tpatient\nsub-b\tcontrol\n"
    defaced.unlink()
    assert site.change(run1=site.volume("s1", "new"), run2=site.volume("s2", "new")).conflicts == []
    assert defaced.exists(), "what is missing is written again"
    (folder / f"{site.stem('run2')}.json").write_text('{"of": "me"}')
    kept = site.change(run1=site.volume("s1", "new"))
    assert [path for path, _ in kept.conflicts] == [f"{PLACE}/{site.stem('run2')}.json"]
    assert (kept.removed, (folder / f"{site.stem('run2')}.json").read_text()) == ([], '{"of": "me"}')
    strange = folder / f"{site.stem('run9')}.json"
    strange.write_text("{}")
    in_the_way = site.change((site.stem("run2"),), run1=site.volume("s1", "new"), run9=site.volume("s9"))
    assert [path for path, _ in in_the_way.conflicts] == [f"{PLACE}/{site.stem('run9')}.json"]
    assert strange.read_text() == "{}"


def test_links_of_version_control_whose_content_is_elsewhere_count_as_present(site: Site) -> None:
    site.change(run1=site.volume("s1"))
    image = site.out / PLACE / f"{site.stem('run1')}.nii.gz"
    image.unlink()
    image.symlink_to("../../../.git/annex/objects/not-here")
    assert site.change(run1=site.volume("s1")) == SessionChange()
    assert site.change(run1=site.volume("s1", "new")).replaced
    assert not image.is_symlink()


def test_an_emptied_session_leaves_no_folder_and_volumes_may_be_left(site: Site) -> None:
    site.change(run1=site.volume("s1"), run2=site.volume("s2"))
    assert site.change(leave=(site.stem("run1"),)).removed == [f"{PLACE}/{site.stem('run2')}"]
    site.check()
    site.change()
    assert not (site.out / "sub-a").exists()
    assert (site.out / "participants.tsv").read_text() == "participant_id\n"


def test_a_volume_that_cannot_be_copied_is_reported_and_the_others_are_written(site: Site) -> None:
    damaged = site.volume("s1")
    damaged.files[".nii.gz"].file.write_bytes(b"other bytes")
    change = site.change(run1=damaged, run2=site.volume("s2"))
    assert [path for path, _ in change.failed] == [f"{PLACE}/{site.stem('run1')}"]
    assert change.added == [f"{PLACE}/{site.stem('run2')}"]
    site.check()


STEPS = ("rename", "replace", "link")
"""Calls before which the process is killed; every file that others see comes by one of them."""


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_every_session_as_before_or_as_after(site: Site) -> None:
    def carry_out(change: Callable[[], Any], fatal: int) -> int:
        """Carry out a change in a child that kills itself at one of its steps; return its exit status."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        steps = 0

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def act(*arguments: Any, **named: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments, **named)

            return act

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        dataset_module._exchange = counted(dataset_module._exchange)  # type: ignore[attr-defined]
        change()
        os._exit(0)

    changes: list[Callable[[], Any]] = [
        lambda: site.change(alone=site.volume("s1")),
        lambda: site.change(run1=site.volume("s1"), run2=site.volume("s2")),
        lambda: site.change(run2=site.volume("s2", "late")),
        lambda: site.change(),
    ]
    kills = 0
    site.out.mkdir()
    for change in changes:
        fatal = 1
        while carry_out(change, fatal):
            kills += 1
            site.check()
            fatal += 1
        site.check()
        assert change() == SessionChange()
    assert kills >= 12
    assert not list((site.out / ".voxelnode").iterdir())


def test_folders_that_are_no_data_set_or_in_use_are_refused(site: Site) -> None:
    site.out.mkdir()
    (site.out / ".git").mkdir()
    with opened(site.out), pytest.raises(UsageError, match="another process changes"), opened(site.out):
        pass
    (site.out / "thesis.doc").touch()
    with pytest.raises(UsageError, match="choose an empty folder"), opened(site.out):
        pass
    (site.out / "thesis.doc").unlink()
    site.change(run1=site.volume("s1"))
    state = site.out / PLACE / ".voxelnode.json"
    outside = {"anat/../../../x": {"series": "s", "stack": 0, "source": "", "files": {".json": ""}}}
    contents = [{"version": 2}, *({"version": 1, "studies": [], "volumes": volumes} for volumes in ({"x": 1}, outside))]
    for text in ("{", *map(json.dumps, contents)):
        state.write_text(text)
        with pytest.raises(UsageError, match="voxelnode"):
            site.change(run1=site.volume("s1"))

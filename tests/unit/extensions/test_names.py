"""The tree of links by name: what is ours follows the index, and what is not stays."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from node.conversion.naming import node_template
from node.extensions.names.tree import Tree, has_tree

TEMPLATE = "{patient_name}_{study_date}_{modality}/{series_number:03}_{series_description}"


def study(uid: str, name: str = "Doe^Jane") -> dict[str, Any]:
    return {"study_instance_uid": uid, "patient_name": name, "patient_id": "17", "study_date": "2026-11-20"}


def series(uid: str, number: int = 2, description: str = "T1 MPRAGE") -> dict[str, Any]:
    names = {"series_number": number, "series_description": description, "modality": "MR"}
    return {"series_instance_uid": uid, **names}


def revision(root: Path, study_uid: str, series_uid: str, number: int = 1) -> str:
    folder = f"volumes/{study_uid}/{series_uid}/{number}-abc"
    (root / folder).mkdir(parents=True)
    for name in ("volume.nii.gz", "volume.json", "volume.zraw", "thumbnail.png"):
        (root / folder / name).write_text(f"{series_uid} {number} {name}")
    (root / folder / "volume.mhd").write_text("ObjectType = Image\nElementDataFile = volume.zraw\n")
    return folder


def reported(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root / "names")): path.read_text()
        for path in sorted((root / "names").rglob("*"))
        if path.is_file()
    }


def test_links_follow_revisions_and_deletions_and_two_studies_of_one_name_keep_theirs(tmp_path: Path) -> None:
    tree = Tree(tmp_path, node_template(TEMPLATE))
    assert tree.scan() == set()
    for uid in ("1.1", "1.2"):
        tree.change(uid, study(uid), [series(f"{uid}.1")], {f"{uid}.1": revision(tmp_path, uid, f"{uid}.1")})
    first, second = "Doe_Jane_20261120_MR", "Doe_Jane_20261120_MR-2"
    assert reported(tmp_path)[f"{first}/002_T1_MPRAGE.nii.gz"] == "1.1.1 1 volume.nii.gz"
    assert reported(tmp_path)[f"{second}/002_T1_MPRAGE.json"] == "1.2.1 1 volume.json"
    assert reported(tmp_path)[f"{second}/002_T1_MPRAGE.mhd"].endswith("ElementDataFile = 002_T1_MPRAGE.zraw\n")
    assert not [name for name in reported(tmp_path) if name.endswith(".png")]
    before = reported(tmp_path)

    (tmp_path / "names" / first / "notes.txt").write_text("mine")
    newer = revision(tmp_path, "1.1", "1.1.1", 2)
    again = Tree(tmp_path, node_template(TEMPLATE))
    assert again.scan() == {"1.1", "1.2"}
    again.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": newer})
    assert reported(tmp_path)[f"{first}/002_T1_MPRAGE.nii.gz"] == "1.1.1 2 volume.nii.gz"
    again.change("1.1", None, [], {})
    assert [name for name in reported(tmp_path) if name.startswith(f"{first}/")] == [f"{first}/notes.txt"]
    again.change("1.2", study("1.2"), [series("1.2.1")], {"1.2.1": "volumes/1.2/1.2.1/1-abc"})
    assert {name: text for name, text in reported(tmp_path).items() if name.startswith(second)} == {
        name: text for name, text in before.items() if name.startswith(second)
    }
    again.change("1.2", study("1.2", "Roe^Ann"), [series("1.2.1")], {"1.2.1": "volumes/1.2/1.2.1/1-abc"})
    assert "Roe_Ann_20261120_MR/002_T1_MPRAGE.nii.gz" in reported(tmp_path)
    assert not (tmp_path / "names" / second).exists()


def test_series_of_one_name_are_distinguished_and_keep_their_numbers(tmp_path: Path) -> None:
    tree = Tree(tmp_path, node_template(TEMPLATE))
    tree.scan()
    rows = [series("1.1.5")]
    folders = {"1.1.5": revision(tmp_path, "1.1", "1.1.5")}
    tree.change("1.1", study("1.1"), rows, folders)
    rows.insert(0, series("1.1.3"))
    folders["1.1.3"] = revision(tmp_path, "1.1", "1.1.3")
    for _ in range(2):
        tree.change("1.1", study("1.1"), rows, folders)
        folder = tmp_path / "names/Doe_Jane_20261120_MR"
        assert (folder / "002_T1_MPRAGE.nii.gz").read_text() == "1.1.5 1 volume.nii.gz"
        assert (folder / "002_T1_MPRAGE-2.nii.gz").read_text() == "1.1.3 1 volume.nii.gz"


def test_what_a_crash_or_a_person_left_is_brought_to_its_end(tmp_path: Path) -> None:
    folder = revision(tmp_path, "1.1", "1.1.1")
    tree = Tree(tmp_path, node_template(TEMPLATE))
    tree.scan()
    tree.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": folder})
    whole = reported(tmp_path)
    there = tmp_path / "names/Doe_Jane_20261120_MR"
    (there / ".002_T1_MPRAGE.nii.gz.part").symlink_to(f"../../{folder}/volume.nii.gz")
    (there / "002_T1_MPRAGE.json").unlink()
    shutil.copytree(there, tmp_path / "names/copy", symlinks=True)
    again = Tree(tmp_path, node_template(TEMPLATE))
    again.scan()
    again.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": folder})
    assert reported(tmp_path) == whole

    shutil.rmtree(tmp_path / "names")
    assert again.is_lost
    again.scan()
    again.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": folder})
    assert reported(tmp_path) == whole

    none = Tree(tmp_path, None)
    for uid in none.scan():
        none.change(uid, study(uid), [series("1.1.1")], {"1.1.1": folder})
    none.end()
    assert not has_tree(tmp_path)


def test_a_series_gives_up_its_name_rather_than_write_over_a_file_of_somebody(tmp_path: Path) -> None:
    tree = Tree(tmp_path, node_template(TEMPLATE))
    tree.scan()
    there = tmp_path / "names/Doe_Jane_20261120_MR"
    tree.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": revision(tmp_path, "1.1", "1.1.1")})
    saved = there / "saved"
    saved.write_text("mine")
    saved.rename(there / "002_T1_MPRAGE.nii.gz")  # as an editor saves a file
    second = revision(tmp_path, "1.1", "1.1.1", 2)
    tree.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": second})
    ours = [f"002_T1_MPRAGE-2.{ending}" for ending in ("json", "mhd", "nii.gz", "zraw")]
    assert sorted(path.name for path in there.iterdir()) == [*ours, "002_T1_MPRAGE.nii.gz"]
    assert (there / "002_T1_MPRAGE.nii.gz").read_text() == "mine"

    (there / "002_T1_MPRAGE-2_mask.nii.gz").write_text("mine, too")
    (there / "002_T1_MPRAGE-2.zraw").unlink()  # the header is ours without it
    tree.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": second})
    assert {*ours} < {path.name for path in there.iterdir()}
    third = revision(tmp_path, "1.1", "1.1.1", 3)
    (tmp_path / third / "volume_mask.nii.gz").write_text("a mask")
    tree.change("1.1", study("1.1"), [series("1.1.1")], {"1.1.1": third})
    assert (there / "002_T1_MPRAGE-2_mask.nii.gz").read_text() == "mine, too"
    assert (there / "002_T1_MPRAGE-3_mask.nii.gz").read_text() == "a mask"
    assert not (there / ours[0]).exists()


@pytest.mark.parametrize("is_outer", [False, True])
def test_no_link_is_made_or_removed_where_a_link_in_place_of_a_folder_leads(tmp_path: Path, is_outer: bool) -> None:
    template = node_template("{patient_id}/{study_date}/{series_number:03}" if is_outer else TEMPLATE)
    tree = Tree(tmp_path, template)
    tree.scan()
    rows = study("1.1"), [series("1.1.1")], {"1.1.1": revision(tmp_path, "1.1", "1.1.1")}
    tree.change("1.1", *rows)
    there, outside = tmp_path / "names" / ("17" if is_outer else "Doe_Jane_20261120_MR"), tmp_path / "outside"
    there.rename(outside)
    there.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    newer = {"1.1.1": revision(tmp_path, "1.1", "1.1.1", 2)}
    for again in (tree, Tree(tmp_path, template)):
        if again is not tree:
            again.scan()
        with pytest.raises(NotADirectoryError) if is_outer else nullcontext():
            again.change("1.1", *rows[:2], newer)
        if is_outer:
            again.change("1.1", None, [], {})
        else:
            assert (there.with_name(f"{there.name}-2") / "002_T1_MPRAGE.nii.gz").read_text() == "1.1.1 2 volume.nii.gz"
        assert sorted(outside.rglob("*")) == before
        assert there.is_symlink()


def test_a_hostile_name_stays_in_its_folder(tmp_path: Path) -> None:
    tree = Tree(tmp_path, node_template(TEMPLATE))
    tree.scan()
    folder = revision(tmp_path, "1.1", "1.1.1")
    hostile = study("1.1", "../../etc/^\x00passwd")
    tree.change("1.1", hostile, [series("1.1.1", description="/../x\n")], {"1.1.1": folder})
    names = [path.relative_to(tmp_path / "names") for path in (tmp_path / "names").rglob("*.nii.gz")]
    assert [len(name.parts) for name in names] == [2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names", "volumes"]


def test_a_folder_of_several_parts_is_followed_and_empty_parts_go(tmp_path: Path) -> None:
    tree = Tree(tmp_path, node_template("{patient_id}/{study_date}/{series_number:03}_{series_description}"))
    tree.scan()
    rows = {uid: ([series(f"{uid}.1")], {f"{uid}.1": revision(tmp_path, uid, f"{uid}.1")}) for uid in ("1.1", "1.2")}
    for uid in rows:
        tree.change(uid, study(uid), *rows[uid])
    assert reported(tmp_path)["17/20261120/002_T1_MPRAGE.nii.gz"] == "1.1.1 1 volume.nii.gz"
    assert reported(tmp_path)["17/20261120-2/002_T1_MPRAGE.nii.gz"] == "1.2.1 1 volume.nii.gz"
    tree.change("1.1", study("1.1") | {"patient_id": "18"}, *rows["1.1"])
    assert reported(tmp_path)["18/20261120/002_T1_MPRAGE.json"] == "1.1.1 1 volume.json"
    tree.change("1.2", None, [], {})
    assert [path.name for path in (tmp_path / "names").iterdir()] == ["18"]

    other = Tree(tmp_path, node_template("{patient_id}/{series_number:03}_{series_description}"))
    assert other.scan() == {"1.1"}
    other.change("1.1", study("1.1") | {"patient_id": "18"}, *rows["1.1"])
    assert sorted(reported(tmp_path)) == [f"18/002_T1_MPRAGE.{end}" for end in ("json", "mhd", "nii.gz", "zraw")]
    assert reported(tmp_path)["18/002_T1_MPRAGE.nii.gz"] == "1.1.1 1 volume.nii.gz"

"""One SOP Instance UID in two series: what lacks the instance names the conflict, and not a missing number."""

from copy import deepcopy

import pytest
from pydicom import FileDataset

from node.index.looking import looking
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_conflicts import accept, conflicts
from tests.integration.test_lifecycle import require_sidecars_to_follow
from tests.preloaded import run

pytestmark = pytest.mark.slow


FACT = "1 instance was set aside, because other series have the same SOP Instance UIDs: `voxelnode conflicts`"


def two_series() -> tuple[list[FileDataset], list[FileDataset]]:
    """Two series of one study, which share the UID of their second instances."""
    first = make.ct_series(5)
    second = make.ct_series(5, StudyInstanceUID=first[0].StudyInstanceUID)
    second[1].SOPInstanceUID = second[1].file_meta.MediaStorageSOPInstanceUID = first[1].SOPInstanceUID
    return first, second


def verdict_of(root: Root, series: list[FileDataset]) -> dict[str, object]:
    [row] = root.rows(
        "SELECT verdict, verdict_rule, verdict_reason, expected_instances, missing_instances, missing_detail "
        "FROM v_series WHERE series_instance_uid = :uid",
        uid=str(series[0].SeriesInstanceUID),
    )
    return row


@pytest.mark.parametrize("is_late", [False, True])
def test_a_series_whose_instance_was_set_aside_says_so_until_it_is_accepted(root: Root, is_late: bool) -> None:
    first, second = two_series()
    root.take_all([*first, *(second if not is_late else [ds for ds in second if ds is not second[1]])])
    root.convert_due()
    if is_late:
        assert verdict_of(root, second)["verdict_rule"] != "conflict"
        root.take(second[1])
        root.convert_due()
    assert verdict_of(root, first)["verdict"] == "complete"
    found = verdict_of(root, second)
    assert (found["verdict"], found["verdict_rule"]) == ("incomplete", "conflict")
    assert (found["expected_instances"], found["missing_instances"]) == (5, 1)
    assert str(found["verdict_reason"]).startswith(FACT)
    with looking(root.folder / "index.sqlite") as index:
        assert index.conflicts.count_open() == {"instance-bytes": 1}
        uids = second[0].StudyInstanceUID, second[0].SeriesInstanceUID, second[1].SOPInstanceUID
        assert [len(index.conflicts.of_uid(uid)) for uid in uids] == [1, 1, 1]
        assert [len(index.conflicts.about(uids[0], ds.SeriesInstanceUID)) for ds in (first[0], second[0])] == [1, 1]
    accept(root)
    root.convert_due()
    assert verdict_of(root, second)["verdict"] == "complete"
    found = verdict_of(root, first)
    assert (found["verdict"], found["verdict_rule"], found["missing_instances"]) == ("incomplete", "conflict", 1)
    assert str(found["verdict_reason"]).startswith(FACT)
    with looking(root.folder / "index.sqlite") as index:
        assert index.conflicts.count_open() == {}
    [replaced] = root.rows("SELECT id, series_instance_uid FROM v_conflicts WHERE kind = 'instance-replaced'")
    assert replaced["series_instance_uid"] == str(first[0].SeriesInstanceUID), "the file is of it"
    conflicts(root).accept(replaced["id"], "someone")
    root.convert_due()
    assert verdict_of(root, first)["verdict"] == "complete"
    assert verdict_of(root, second)["verdict_rule"] == "conflict"


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("policy", ["never", "keep_both"])
def test_a_series_with_versions_that_nobody_has_decided_about_is_suspect_until_somebody_does(
    root: Root, is_kept: bool, is_late: bool, policy: str
) -> None:
    root.ingest.overwrite_policy = policy
    series = make.ct_series(4)
    root.take_all(series)
    if is_late:
        root.convert_due()
        assert verdict_of(root, series)["verdict"] == "complete"
    for seed in (1, 2):
        root.take(make.set_pixels(deepcopy(series[1]), make.pattern(1, make.ROWS, make.COLUMNS, seed=seed)[0]))
    root.convert_due()
    found = verdict_of(root, series)
    assert (found["verdict"], found["verdict_rule"], found["missing_instances"]) == ("suspect", "versions", 0)
    assert str(found["verdict_reason"]).startswith("2 versions were set aside, with other bytes")
    require_sidecars_to_follow(root)
    undecided = [row["id"] for row in root.rows("SELECT id FROM v_conflicts WHERE decision IS NULL ORDER BY id")]
    conflicts(root).keep(undecided[0], "someone")
    assert str(verdict_of(root, series)["verdict_reason"]).startswith("1 version was set aside")
    if is_kept:
        conflicts(root).keep(undecided[1], "someone")
        require_sidecars_to_follow(root)
    else:
        conflicts(root).accept(undecided[1], "someone")
        root.convert_due()
    assert verdict_of(root, series)["verdict"] == "complete"
    kinds = [row["kind"] for row in root.rows("SELECT kind FROM v_events ORDER BY id")]
    assert kinds.count("verdict-changed") == is_late + is_kept
    assert kinds.count("series-converted") == (1 if is_kept else 2)


def test_commands_name_the_conflict_of_what_is_in_no_series(root: Root) -> None:
    first, second = two_series()
    root.take_all([*first, second[1]])
    reported = run("info", second[1].SeriesInstanceUID, "--root", root.folder).stdout
    assert "the instance came again with other bytes in another series" in reported, reported
    assert "conflicts that nobody has decided" in run("info", first[0].SeriesInstanceUID, "--root", root.folder).stdout
    assert "1 decision about 1 instance: voxelnode conflicts" in run("status", "--root", root.folder).stdout
    assert "nobody has decided 1 instance-bytes" in run("doctor", "--root", root.folder).stdout

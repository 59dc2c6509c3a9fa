"""Where is it? What became of something that the index does not have is one sentence, with what to do."""

import datetime as dt
import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import FileDataset

from node.api import Settings, reading
from node.audit.audit_log import Audit, Transfers
from node.control.care import rebuild_index
from node.control.repository import Repository
from node.index.rows.records import CountedRefusal, Refused
from node.lifecycle.deletion import Order, delete, empty, empty_due, restore
from node.receive.ingest import Origin
from node.receive.whereabouts import whereabouts
from node.volume.reasons import REMEDIES
from tests import make
from tests.integration.conftest import Root, bring
from tests.preloaded import run
from tests.rows import write_rows

CT7 = Origin("dicom", "CT7", "VOXELNODE", "10.0.0.7:1")


def asked(root: Root | Path, *uids: object, is_admin: bool = True) -> str:
    """The sentence about something; empty if nothing is known."""
    folder = root if isinstance(root, Path) else root.folder
    with reading(folder) as index:
        found = whereabouts(index, folder, *map(str, uids), is_admin=is_admin)
    return "" if found is None else found.sentence()


def trashed(root: Root, level: str, uid: object) -> int:
    root.delete(level, str(uid), trash_until=root.clock() + dt.timedelta(days=7))  # type: ignore[arg-type]
    with root.index.reading() as index:
        return int(index.trash.all()[0]["number"])


def moved(ds: FileDataset) -> FileDataset:
    """An instance with the SOP Instance UID of another one, and other bytes, in another study."""
    other = make.corrected(ds)
    [strange] = make.ct_series(1)
    other.StudyInstanceUID, other.SeriesInstanceUID = strange.StudyInstanceUID, strange.SeriesInstanceUID
    return other


def test_of_what_was_never_heard_of_nothing_is_known(root: Root) -> None:
    assert asked(root, "1.2.3") == asked(root, "Nobody^Known") == asked(root, "%") == ""


def test_what_is_in_the_trash_says_who_deleted_it_and_how_it_comes_back(root: Root) -> None:
    series = make.ct_series(2, PatientID="ID-7", PatientName="Trash^Tom")
    root.take_all(series, CT7)
    number = trashed(root, "study", series[0].StudyInstanceUID)
    remedy = f"`voxelnode trash restore {number}` brings it back"
    by = f"2026-01-01 12:00 UTC by someone: in the trash until 2026-01-08; {remedy}"
    study = series[0].StudyInstanceUID
    assert asked(root, study) == f"deleted {by}"
    with_it = f"deleted with its study {by}"
    for sought in (series[0].SeriesInstanceUID, series[1].SOPInstanceUID, "ID-7", "trash tom"):
        assert asked(root, sought) == with_it
    assert asked(root, "1.2.3", study) == with_it, "the address of something that nobody knows names its study"
    assert asked(root, study, is_admin=False) == (
        "deleted 2026-01-01 12:00 UTC; an administrator can bring it back from the trash"
    )
    assert asked(root, series[0].SeriesInstanceUID, is_admin=False) == ""
    for sought in ("ID-7", "trash tom"):
        assert asked(root, sought, is_admin=False) == (
            "deleted with its study 2026-01-01 12:00 UTC; an administrator can bring it back from the trash"
        )


def test_the_accession_number_of_a_deleted_study_finds_it_in_the_trash_and_after_it(root: Root, audit: Audit) -> None:
    series = make.ct_series(1, PatientID="ID-7", AccessionNumber="20261128")
    root.take_all(series, CT7)
    number = trashed(root, "study", series[0].StudyInstanceUID)
    assert f"`voxelnode trash restore {number}` brings it back" in asked(root, "20261128")
    with root.index.reading() as index:
        assert index.trash.all()[0]["accession_number"] == "20261128"
    empty(root.archive, root.index, audit, number, "anna", "by command", root.clock())
    assert "by anna: the trash was emptied" in asked(root, "20261128")
    gone = "permanently deleted with its study 2026-01-01 12:00 UTC; have its sender send it again"
    assert asked(root, "20261128", is_admin=False).startswith(gone)
    assert asked(root, "2026112") == ""


def under_one_study(first: FileDataset, **changed: str) -> FileDataset:
    """An instance of another patient, in a series of its own, with the Study Instance UID of the first one."""
    [other] = make.ct_series(1, study_uid=str(first.StudyInstanceUID), **changed)
    return other


def take_audited(root: Root, audit: Audit, *instances: FileDataset) -> None:
    """Take instances as the node does: a line of the audit log has each study with its Patient ID."""
    root.ingest.transfers = Transfers(audit)
    root.take_all(instances, CT7)
    root.ingest.transfers.close()


def test_who_came_under_the_study_of_another_patient_is_found_there(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1, PatientID="P2005", PatientName="Sauer^Sven", AccessionNumber="A2005")
    second = under_one_study(first, PatientID="P2006", PatientName="Traut^Tina", AccessionNumber="A2006")
    take_audited(root, audit, first, second)
    [conflict] = root.rows("SELECT id FROM v_conflicts WHERE kind = 'study-of-two-patients'")
    study, series = first.StudyInstanceUID, second.SeriesInstanceUID

    def said(decision: str) -> str:
        return (
            f"received 2026-01-01 12:00 UTC from CT7: conflict {conflict['id']}{decision}: as Traut Tina (P2006), "
            f"under the Study Instance UID of another patient, Sauer Sven (P2005), in study {study}; "
            f"`voxelnode conflicts show {conflict['id']}` compares both, `voxelnode info {series}` shows the series"
        )

    for sought in ("P2006", "Traut", "traut tina"):
        assert asked(root, sought) == asked(root, sought, is_admin=False) == said("")
    root.index.conflicts.decide([conflict["id"]], "kept", "anna", root.clock())
    assert asked(root, "P2006") == said(", kept")
    assert asked(root, "Trautmann") == asked(root, "P200") == ""


@pytest.mark.slow
@pytest.mark.sqlite("starts commands that look for the index in the root")
def test_commands_name_the_other_patient_of_a_study(root: Root) -> None:
    [first] = make.ct_series(1, PatientID="P2005", PatientName="Sauer^Sven")
    root.take_all([first, under_one_study(first, PatientID="P2006", PatientName="Traut^Tina")], CT7)

    def said(*command: str) -> str:
        return " ".join(run(*command, "--root", root.folder).stdout.split())

    assert "Sauer Sven (P2005), 2024-01-02, 1 CT, came as Traut Tina (P2006)" in said("conflicts")
    [row] = json.loads(run("conflicts", "--root", root.folder, "--json").stdout)
    assert (row["other_patient_id"], row["other_patient_name"]) == ("P2006", "Traut^Tina")
    shown = said("conflicts", "show", "1")
    assert "patient of the study patient in this conflict patient Sauer Sven Traut Tina patient ID P2005 P2006" in shown
    assert "nothing was set aside: the instances of both patients are current in this study" in shown
    study = said("info", first.StudyInstanceUID)
    assert study.count("came as Traut Tina (P2006)") == 2, "beside its series, and among the conflicts"
    root.take_all(make.ct_series(1, PatientID="P2006", PatientName="Traut^Tina"), CT7)
    assert "came as Traut Tina (P2006)" in said("info", "P2006"), "who has a study, and a series in that of another"
    assert run("info", "P2006", "--root", root.folder).returncode == 0


def test_who_came_as_another_version_of_an_instance_is_found_in_the_conflict(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1, PatientID="P2005", PatientName="Sauer^Sven")
    other = make.corrected(first)
    other.PatientID, other.PatientName = "P2006", "Traut^Tina"
    take_audited(root, audit, first, other)
    for sought in ("P2006", "Traut"):
        found = asked(root, sought)
        assert "as Traut Tina (P2006), set aside, for the node has another version of the instance; " in found
        assert "fsck" not in found
    assert asked(root, "Traut", is_admin=False) == ""


def test_a_study_that_is_of_another_patient_by_now_is_found_by_the_first_one(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1, PatientID="P-1", PatientName="A")
    take_audited(root, audit, first)
    write_rows(root.folder, "UPDATE patients SET patient_id = 'P-2', patient_name = 'B'")
    found = asked(root, "P-1")
    assert f"in study {first.StudyInstanceUID}, which is of another patient now, B (P-2); `voxelnode info" in found


def test_one_of_several_deletions_below_a_study_does_not_answer_for_the_others(root: Root) -> None:
    series = make.ct_series(3)
    root.take_all(series, CT7)
    trashed(root, "instance", series[0].SOPInstanceUID)
    assert asked(root, series[0].SOPInstanceUID).startswith("deleted 2026-01-01")
    assert asked(root, "1.2.3", series[0].SeriesInstanceUID, series[0].StudyInstanceUID) == ""


@pytest.mark.slow
@pytest.mark.sqlite("starts commands that look for the index in the root")
def test_info_about_a_series_names_what_of_it_is_not_there(root: Root) -> None:
    series = make.ct_series(3)
    root.take_all(series, CT7)
    number = trashed(root, "instance", series[0].SOPInstanceUID)
    write_rows(
        root.folder,
        "INSERT INTO lost_instances (sop_instance_uid, study_instance_uid, series_instance_uid, sha256, source, "
        "calling_ae_title, peer, received_at, noticed_at) SELECT '1.2.3.4', study_instance_uid, series_instance_uid, "
        "sha256, source, calling_ae_title, peer, received_at, received_at FROM v_images LIMIT 1",
    )
    for uid in (series[0].SeriesInstanceUID, series[0].StudyInstanceUID):
        shown = run("info", uid, "--root", root.folder)
        assert shown.returncode == 0, shown.stderr
        assert re.search(rf"restore NUMBER`\n.*\n +{number} +instance +{series[0].SOPInstanceUID}", shown.stdout)
        assert "lost: 1 instance, acknowledged and not here" in shown.stdout
        found = json.loads(run("info", uid, "--root", root.folder, "--json").stdout)
        assert (found["trash"][0]["number"], len(found["lost"])) == (number, 1)


def test_what_was_deleted_permanently_says_by_whom_and_where_it_may_come_from(root: Root) -> None:
    series, study = make.ct_series(2), "StudyInstanceUID"
    root.take_all(series, CT7)
    plan = root.index.deletions.plan("study", series[0].StudyInstanceUID)
    with closing(Audit(root.folder, "VOXELNODE", now=root.clock)) as audit:
        delete(root.archive, root.index, audit, plan, Order("retention", "retention: study_days"), root.clock())
    assert asked(root, getattr(series[0], study)) == (
        "permanently deleted 2026-01-01 12:00 UTC by retention: retention: study_days; "
        "have its sender send it again, or take it from a backup"
    )
    assert asked(root, series[0].SOPInstanceUID).endswith("have CT7 send it again, or take it from a backup")
    assert asked(root, getattr(series[0], study), is_admin=False) == (
        "permanently deleted 2026-01-01 12:00 UTC: retention: study_days; "
        "have its sender send it again, or take it from a backup"
    )


def test_what_went_from_the_trash_or_came_back_from_it_says_so(root: Root, audit: Audit) -> None:
    first, second = make.ct_series(1), make.ct_series(1)
    root.take_all([*first, *second], CT7)
    number = trashed(root, "study", first[0].StudyInstanceUID)
    root.clock.move(3600)
    empty(root.archive, root.index, audit, number, "anna", "by command", root.clock())
    assert asked(root, first[0].StudyInstanceUID).startswith(
        "deleted 2026-01-01 12:00 UTC by someone, permanently 2026-01-01 13:00 UTC by anna: "
        "the trash was emptied, by command;"
    )
    number = trashed(root, "study", second[0].StudyInstanceUID)
    restore(root.archive, root.index, audit, number, "anna", lambda title: 60.0, root.clock())
    uid = second[0].StudyInstanceUID
    assert asked(root, uid) == f"stored; `voxelnode info {uid}` shows it"


def test_of_what_a_person_deleted_an_empty_trash_hides_neither_who_nor_whose_it_was(root: Root, audit: Audit) -> None:
    series = make.ct_series(1, PatientID="ID-7", PatientName="Trash^Tom")
    root.take_all(series, CT7)
    trashed(root, "study", series[0].StudyInstanceUID)
    root.clock.move(8 * 86400)
    empty_due(root.archive, root.index, audit, root.clock(), is_clock_right=True)
    first = "2026-01-01 12:00 UTC by someone, permanently 2026-01-09 12:00 UTC by retention: "
    rest = f"{first}the trash was emptied, its time is over; have "
    assert asked(root, series[0].StudyInstanceUID).startswith(f"deleted {rest}")
    for sought in (series[0].SOPInstanceUID, "ID-7", "Trash^Tom", "trash tom", "Trash"):
        assert asked(root, sought).startswith(f"deleted with its study {rest}"), sought
    assert asked(root, "Trash^Tina") == ""
    told = asked(root, "Trash^Tom", is_admin=False)
    assert told.startswith("permanently deleted with its study ")
    assert "someone" not in told


def test_info_says_of_each_series_of_a_study_or_a_patient_what_became_of_it_and_what_to_do(root: Root) -> None:
    slices, broken = make.ct_series(6, PatientID="ID-8"), make.ct_series(1, PatientID="ID-8", SeriesDescription="Scout")
    broken[0].StudyInstanceUID = slices[0].StudyInstanceUID
    broken[0].PixelData = broken[0].PixelData[:-100]
    root.take_all([*slices[:2], *slices[3:], *broken])
    root.convert_due()
    for sought in (str(slices[0].StudyInstanceUID), "ID-8"):
        said = " ".join(run("info", sought, "--root", root.folder).stdout.split())
        at = re.search(r"5 instances, (received 20\d\d-\d\d-\d\d \d\d:\d\d[^,]*), ", said)
        found = f"incomplete 1 CT, 5 instances, {at[1]}, {slices[0].SeriesInstanceUID} missing-slice: 1 slice between"
        assert found in said
        assert f"; {REMEDIES['incomplete']}" in said
        why = "cut: cut within its pixels: 284 of 384 bytes; send it again; The image was cut on its way: send it again"
        assert f"refused 1 Scout, 1 instance, {at[1]}, {broken[0].SeriesInstanceUID} {why}" in said
    shown = run("info", broken[0].SeriesInstanceUID, "--root", root.folder).stdout
    assert re.search(r"^  state +refused$", shown, re.MULTILINE)
    assert "verdict" not in shown
    assert "cut  The image was cut on its way" in shown
    found = json.loads(run("info", slices[0].StudyInstanceUID, "--root", root.folder, "--json").stdout)
    assert sorted(row["state"] for row in found["series_of_study"]) == ["converted", "refused"]


@pytest.mark.slow
@pytest.mark.sqlite("starts commands that look for the index in the root")
def test_info_about_a_series_names_its_excluded_instances_with_the_reasons(root: Root) -> None:
    series = make.ct_series(5)
    series[2].PixelData = series[2].PixelData[:-100]
    root.take_all(series)
    root.convert_due()
    uid, cut = str(series[0].SeriesInstanceUID), str(series[2].SOPInstanceUID)
    shown = run("info", uid, "--root", root.folder).stdout
    assert re.search(rf"^exclusions\n.*\n +1 +{cut} +cut +cut within its pixels: 284 of 384 bytes", shown, re.MULTILINE)
    assert "  cut  The image was cut on its way: send it again" in shown
    [found] = json.loads(run("info", uid, "--root", root.folder, "--json").stdout)["exclusions"]
    assert (found["sop_instance_uid"], found["reason"], found["revision"]) == (cut, "cut", 1)


def test_what_is_stored_elsewhere_is_shown_there(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds, CT7)
    with root.index.reading() as index:
        found = whereabouts(index, root.folder, ds.SeriesInstanceUID, "1.2.3")
    uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID)
    assert (found.place, found.page) == (uids, f"/studies/{uids[0]}/series/{uids[1]}")
    assert found.happened() == f"stored in study {ds.StudyInstanceUID}"
    assert asked(root, ds.SOPInstanceUID).startswith(f"stored in study {ds.StudyInstanceUID};")


def test_what_is_in_quarantine_says_why_by_its_row_or_by_the_file(root: Root) -> None:
    [ds] = make.ct_series(1)
    other = moved(ds)
    root.take_all([ds, other], CT7)
    [file] = (root.folder / "quarantine").glob("*.*")
    found = asked(root, other.StudyInstanceUID)
    assert found.startswith("an instance of it is in quarantine since ")
    assert "instance-bytes, the instance came again with other bytes" in found
    assert found.endswith(f"`voxelnode quarantine show {file.name}` compares it with what is stored")
    [stray] = make.ct_series(1)
    stray.save_as(root.folder / "quarantine" / "stray.dcm")
    (root.folder / "quarantine" / "other.dcm").write_bytes(b"no DICOM")
    found = asked(root, stray.SOPInstanceUID)
    assert found.startswith("in quarantine since ")
    assert found.endswith("`voxelnode quarantine show stray.dcm` compares it with what is stored")
    assert asked(root, stray.SOPInstanceUID, is_admin=False) == ""


@pytest.mark.sqlite("removes the file")
def test_what_is_lost_or_forgotten_by_a_new_index_is_remembered_beside_it(settings: Settings) -> None:
    folder, lost, gone = settings.storage.root, make.ct_series(2), make.ct_series(1)
    with Repository(settings) as repository:
        bring(repository.ingest, *lost, *gone)
        plan = repository.index.deletions.plan("study", gone[0].StudyInstanceUID)
        delete(repository.archive, repository.index, repository.audit, plan, Order("anna", "by command"),
               repository.ingest.now())  # fmt: skip
    for path in (*(folder / "objects").rglob("*.dcm"), *folder.glob("index.sqlite*")):
        path.unlink()
    rebuild_index(settings)
    found = asked(folder, lost[0].StudyInstanceUID)
    assert ": 2 instances acknowledged, and lost; have MODALITY send it again" in found
    assert asked(folder, lost[0].StudyInstanceUID, is_admin=False) == found
    found = asked(folder, gone[0].StudyInstanceUID)
    assert found.startswith("permanently deleted ")
    assert "by anna; have MODALITY send" in found
    with Repository(settings) as repository:
        repository.actions.by_name["write-off-lost"](uid=lost[1].SOPInstanceUID, reason="replaced", who="anna")
    found = asked(folder, lost[1].SOPInstanceUID)
    assert found.startswith("received ")
    assert "from MODALITY at 127.0.0.1: it was lost; lost instances were written off by anna; have" in found
    with Repository(settings) as repository:
        repository.actions.by_name["write-off-lost"](uid=None, reason="replaced", who="anna")
    found = asked(folder, lost[1].StudyInstanceUID)
    assert found.startswith("written off ")
    assert "by anna: write off 1 lost instances: replaced;" in found


def test_what_never_came_may_have_been_refused(root: Root) -> None:
    now = dt.datetime.now(dt.UTC)

    def refused(what: str, title: str, days: float) -> CountedRefusal:
        reason = "rejected permanently: calling AE title not recognised"
        one = Refused(what, "calling AE title", reason, "add the sender to [peers]", "10.0.0.7", title)  # type: ignore[arg-type]
        return CountedRefusal(one, 1, now - dt.timedelta(days=days), now - dt.timedelta(days=days))

    root.index.rejections.record([refused("association", "CT9", 8)])
    assert asked(root, "1.2.3") == ""
    root.index.rejections.record([refused("association", "CT7", 1), refused("connection", "", 0)])
    shown = f"{now - dt.timedelta(days=1):%Y-%m-%d %H:%M} UTC"
    assert (
        asked(root, "1.2.3")
        == asked(root, "1.2.3", is_admin=False)
        == (
            "never received here; the last refusal, which may have nothing to do with it, was "
            f"{shown} of CT7 at 10.0.0.7: calling AE title not recognised; "
            "if that is why: add the sender to [peers]; `voxelnode rejections` lists all"
        )
    )
    with root.index.reading() as index:
        assert "CT7" not in whereabouts(index, root.folder, "1.2.3", admitted={"CT7"}).happened()


def test_of_several_refused_senders_none_is_recommended_and_of_none_that_only_asked(root: Root) -> None:
    now, reason = dt.datetime.now(dt.UTC), "rejected permanently: calling AE title not recognised"

    def refused(title: str, offered: str) -> None:
        one = Refused("association", "calling AE title", reason, f"add {title}", "10.0.0.7", title, offered=offered)
        root.index.rejections.record([CountedRefusal(one, 1, now, now)])

    refused("ECHO", "1 presentation context, 1.2.840.10008.1.1")
    refused("ASKS", "2 presentation contexts, 1.2.840.10008.1.1, 1.2.840.10008.5.1.4.1.2.2.1")
    assert asked(root, "ID-1") == ""
    refused("CT8", "2 presentation contexts, 1.2.840.10008.1.1, 1.2.840.10008.5.1.4.1.1.2")
    assert "if that is why: add CT8;" in asked(root, "ID-1")
    refused("CT9", "1 presentation context, 1.2.840.10008.5.1.4.1.1.2")
    assert asked(root, "1.2.3") == (
        "never received here; 2 senders were refused in the last 7 days, perhaps for another reason; "
        "`voxelnode rejections` lists each with what to do"
    )


def test_the_refusal_of_a_sender_that_has_stored_since_says_nothing(root: Root) -> None:
    reason = "status 0xA700: the disk is full"
    before = root.clock() - dt.timedelta(hours=1)
    one = Refused("instance", "status 0xA700", reason, "free space", "10.0.0.7", "CT7")
    root.index.rejections.record([CountedRefusal(one, 1, before, before)])
    [ds] = make.ct_series(1)
    root.clock.moment = dt.datetime.now(dt.UTC)
    root.index.rejections.record([CountedRefusal(one, 1, root.clock(), root.clock())])
    assert "of CT7" in asked(root, "1.2.3")
    root.clock.move(1)
    root.take(ds, CT7)
    assert asked(root, "1.2.3") == ""

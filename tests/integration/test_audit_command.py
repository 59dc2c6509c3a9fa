"""`voxelnode audit`, `rejections` and `peers list` on a terminal: who did what, and what was refused."""

import datetime as dt
import json

import pytest

from node.index.rows.records import CountedRefusal, Refused
from tests import make
from tests.integration.conftest import Root
from tests.preloaded import run

WIDTH = 100
"""More than any line of these commands."""


def trashed(root: Root, patient: str) -> str:
    [ds] = make.ct_series(1, PatientID=patient, PatientName="Doe^Jane")
    root.take(ds)
    root.delete("study", ds.StudyInstanceUID, trash_until=root.clock() + dt.timedelta(days=7))
    return str(ds.StudyInstanceUID)


def test_the_audit_log_says_who_deleted_whose_study_and_can_be_asked_for_one(root: Root) -> None:
    first, second = trashed(root, "ID-1"), trashed(root, "ID-2")
    for option in (("--patient", "ID-2"), ("--uid", second), ("--patient", "ID-2", "--uid", second)):
        shown = run("audit", *option, "--root", root.folder, check=True).stdout
        assert max(map(len, shown.splitlines())) < WIDTH
        said = " ".join(shown.split())
        assert "DICOM Study Deleted, by someone ordered: delete study, by command" in said
        assert f"patient ID-2 Doe^Jane, level study, study_instance_uid {second}" in said
        assert first not in said
    assert "no such line" in run("audit", "--patient", "ID-2", "--uid", first, "--root", root.folder).stdout
    lines = json.loads(run("audit", "--uid", first, "--last", "1", "--root", root.folder, "--json").stdout)["items"]
    assert [line["detail"].partition(":")[0] for line in lines] == ["done"]


def test_refusals_begin_with_the_newest_and_equal_ones_are_one(root: Root) -> None:
    reason = "rejected permanently: calling AE title not recognised"
    for title, minutes in (("CT7", 0), ("CT9", 5), ("CT7", 10)):
        one = Refused("association", "calling AE title", reason, "add the sender to [peers]", "10.0.0.7", title, "VOX")
        at = dt.datetime(2026, 1, 1, 12, minutes, tzinfo=dt.UTC)
        root.index.rejections.record([CountedRefusal(one, 2, at, at)])
    shown = run("rejections", "--root", root.folder, check=True).stdout
    assert max(map(len, shown.splitlines())) < WIDTH
    said = " ".join(shown.split())
    newest = "2026-01-01 12:10 UTC association of CT7 at 10.0.0.7 to VOX, 4 times since 2026-01-01 12:00 UTC"
    assert newest in said
    assert said.index("CT7") < said.index("CT9")
    assert said.count("CT7") == 1
    assert json.loads(run("rejections", "--root", root.folder, "--json").stdout)["total"] == 3


def test_refusals_are_equal_without_their_measures_and_differ_by_their_causes(root: Root) -> None:
    at = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    for reason, remedy in (
        ("has 18.5 MB", "the disk has 9 MB"),
        ("has 17.5 MB", "the disk has 8 MB"),
        ("no TLS", "the disk has 8 MB"),
    ):
        one = Refused("connection", "TLS", reason, remedy, "10.0.0.7", "CT7", "VOX")
        root.index.rejections.record([CountedRefusal(one, 1, at, at)])
        at += dt.timedelta(minutes=5)
    said = run("rejections", "--root", root.folder, check=True).stdout
    assert (said.count("CT7"), said.count("2 times"), said.count("no TLS")) == (2, 1, 1)


@pytest.mark.parametrize("dry_run", ["true", "false"])
@pytest.mark.parametrize(("studies", "waits"), [(4, False), (5, True)])
def test_retention_says_that_a_pass_will_ask_as_it_does(root: Root, studies: int, waits: bool, dry_run: str) -> None:
    for _ in range(studies):
        root.take(make.ct_series(1, PatientID="P-60", PatientName="", StudyDate="20260102")[0])
    (root.folder / "conf.d").mkdir(exist_ok=True)
    (root.folder / "conf.d" / "50.toml").write_text(
        f"[retention]\nmaximum_studies = 1\nonly_converted = false\ndry_run = {dry_run}\n"
    )
    shown = run("retention", "--root", root.folder, check=True).stdout
    assert f"{studies - 1} of {studies} studies would be deleted" in shown
    assert shown.count("P-60     2026-01-02  ") == studies - 1
    assert ("waits for `voxelnode retention confirm`" in shown) is waits
    (root.folder / "conf.d" / "50.toml").write_text("[retention]\nmaximum_studies = 1\nonly_converted = true\n")
    kept = "kept by [retention] only_converted, and due otherwise: "
    assert f"{kept}{studies} studies" in run("retention", "--root", root.folder, check=True).stdout


def test_peers_are_listed_with_what_they_may(root: Root) -> None:
    assert "voxelnode peers set" in run("peers", "list", "--root", root.folder, check=True).stdout
    (root.folder / "conf.d").mkdir(exist_ok=True)
    (root.folder / "conf.d" / "50-peers.toml").write_text(
        '[peers.ct1]\nae_title = "CT1"\nnetworks = ["10.1.2.0/24"]\nmay = ["echo", "store"]\n'
        'certificate = "ct1.example"\n'
    )
    shown = run("peers", "list", "--root", root.folder, check=True).stdout.splitlines()
    assert shown[-1].split() == ["ct1", "CT1", "10.1.2.0/24", "ct1.example", "echo,", "store"]

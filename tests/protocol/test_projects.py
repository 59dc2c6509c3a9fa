"""Peers with projects: what C-FIND, C-GET and C-MOVE show them, and that nothing tells of anything else."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import Dataset
from pynetdicom import build_context

from node.dicom import uids
from node.extensions.projects.rows import ProjectRepository
from node.index.rows.scope import Scope, current_scope
from node.index.rules.people.accounts import Content
from node.settings.peers import READING_VERBS, Peer
from tests.make import ct_series
from tests.protocol.conftest import CT_IMAGE_STORAGE, Running, StartNode, associate, identifier
from tests.protocol.test_retrieve import Destination, counts, get, move, start_destination, stored

__all__ = ["start_destination"]

SERIES = {"1.2.901.1": "1.2.901", "1.2.901.2": "1.2.901", "1.2.902.1": "1.2.902", "1.2.903.1": "1.2.903",
          "1.2.904.1": "1.2.904"}  # fmt: skip
"""The series of the node, with their studies; the last one is in no project."""

CONTENTS = {
    "alpha": [Content("1.2.901"), Content("1.2.902")],
    "beta": [Content("1.2.902"), Content("1.2.903", "1.2.903.1")],
    "gamma": [Content("1.2.901", "1.2.901.2")],
}
ABSENT = ("ID-1.2.999", "1.2.999", "1.2.999.1", "1.2.999.1.1")
SEEN = {
    "ALPHA": {"1.2.901.1", "1.2.901.2", "1.2.902.1"},
    "BETAGAMMA": {"1.2.901.2", "1.2.902.1", "1.2.903.1"},
    "GONE": set(),
    "ASKER": set(SERIES),
}
"""The series that each peer sees; the project of one was removed."""

SERVICES = {
    uids.PATIENT_ROOT_FIND, uids.STUDY_ROOT_FIND, uids.PATIENT_ROOT_GET, uids.STUDY_ROOT_GET, uids.PATIENT_ROOT_MOVE,
    uids.STUDY_ROOT_MOVE,
}  # fmt: skip
"""What the tests here ask for by query and retrieve: another service must be asked for foreign UIDs too."""


@pytest.fixture
def site(
    start_node: StartNode, start_destination: Callable[..., Destination], tmp_path: Path
) -> tuple[Running, Destination]:
    destination = start_destination()
    reading = tuple(READING_VERBS)
    peers = {
        "alpha": Peer(ae_title="ALPHA", may=reading, projects=("alpha",)),
        "beta": Peer(ae_title="BETAGAMMA", may=reading, projects=("beta", "gamma")),
        "gone": Peer(ae_title="GONE", may=reading, projects=("removed",)),
        "asker": Peer(ae_title="ASKER"),
        "sender": Peer(ae_title="SENDER"),
        "store": Peer(ae_title="STORE", host="127.0.0.1", port=destination.port),
    }
    node = start_node(peers=peers)
    for series, study in SERIES.items():
        instances = ct_series(2, study_uid=study, series_uid=series, PatientID=f"ID-{study}", PatientName=f"N^{study}")
        for number, ds in enumerate(instances, 1):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
        stored(node, instances, tmp_path)
    node.rows()
    projects, now = node.ingest.index.repository(ProjectRepository), dt.datetime.now(dt.UTC)
    for name, contents in CONTENTS.items():
        projects.set(name, "test", now)
        projects.add(name, contents, "test", now)
    return node, destination


def found(node: Running, title: str, model: str, level: str, **keys: Any) -> list[Dataset]:
    assoc = associate(node, build_context(model), title=title)
    assert assoc.is_established
    answers = list(assoc.send_c_find(identifier(level, **keys), model))
    assoc.release()
    assert answers[-1][0].Status == 0x0000
    return [answer for _, answer in answers[:-1]]


def keys_of(level: str, patient: str, study: str, series: str, instance: str) -> dict[str, str]:
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    depth = ("PATIENT", "STUDY", "SERIES", "IMAGE").index(level) + 1
    return dict(list(zip(names, (patient, study, series, instance), strict=True))[:depth])


def foreign(title: str) -> Iterator[tuple[str, str, str, str]]:
    for series in set(SERIES) - SEEN[title]:
        yield f"ID-{SERIES[series]}", SERIES[series], series, f"{series}.1"


@pytest.mark.own_acceptor
def test_a_query_finds_what_is_in_the_projects_of_its_peer(site: tuple[Running, Destination]) -> None:
    node, _ = site
    numbers = {"NumberOfStudyRelatedSeries": None, "NumberOfStudyRelatedInstances": None}
    for title, seen in SEEN.items():
        studies = found(node, title, uids.STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="", **numbers)
        series = [
            one.SeriesInstanceUID
            for study in studies
            for one in found(
                node,
                title,
                uids.STUDY_ROOT_FIND,
                "SERIES",
                StudyInstanceUID=study.StudyInstanceUID,
                SeriesInstanceUID="",
            )
        ]
        assert set(series) == seen, title
        assert len(series) == len(seen) == sum(study.NumberOfStudyRelatedSeries for study in studies)
        assert sum(study.NumberOfStudyRelatedInstances for study in studies) == 2 * len(series)
        patients = found(
            node, title, uids.PATIENT_ROOT_FIND, "PATIENT", PatientID="*", NumberOfPatientRelatedStudies=None
        )
        assert {patient.PatientID for patient in patients} == {f"ID-{SERIES[one]}" for one in seen}, title
        assert all(patient.NumberOfPatientRelatedStudies == 1 for patient in patients)


@pytest.mark.own_acceptor
@pytest.mark.slow
@pytest.mark.parametrize("title", ["ALPHA", "BETAGAMMA", "GONE"])
def test_what_is_in_no_project_of_a_peer_does_not_exist_for_it(site: tuple[Running, Destination], title: str) -> None:
    node, destination = site
    for patient, study, series, instance in foreign(title):
        is_seen_in_part = any(SERIES[one] == study for one in SEEN[title])
        levels = ("SERIES", "IMAGE") if is_seen_in_part else ("PATIENT", "STUDY", "SERIES", "IMAGE")
        for level in levels:
            reported = []
            for identities in ((patient, study, series, instance), ABSENT):
                keys = keys_of(level, *identities)
                answers = found(node, title, uids.PATIENT_ROOT_FIND, level, **keys)
                got = get(node, identifier(level, **keys), model=uids.PATIENT_ROOT_GET, title=title)
                moved = move(node, identifier(level, **keys), model=uids.PATIENT_ROOT_MOVE, title=title)
                assert not got.stored
                responses = [(status.Status, counts(status)) for status, _ in [*got.responses, *moved]]
                reported.append((answers, responses))
            assert reported[0] == reported[1]
    assert not destination.stored
    series = sorted(SEEN[title])
    if series:
        keys = identifier("SERIES", StudyInstanceUID=SERIES[series[0]], SeriesInstanceUID=series[0])
        assert len(get(node, keys, title=title).stored) == 2
        move(node, keys, title=title)
        assert set(destination.stored) == {f"{series[0]}.1", f"{series[0]}.2"}
        study = identifier("STUDY", StudyInstanceUID="1.2.901")
        assert {uid.rpartition(".")[0] for uid in get(node, study, title=title).stored} == {
            one for one in SEEN[title] if SERIES[one] == "1.2.901"
        }


def test_every_service_that_reads_the_index_is_asked_for_foreign_uids(node: Running) -> None:
    assert {uid for uid, verb in node.listener.verbs.items() if verb in ("query", "retrieve")} == SERVICES


def test_a_peer_with_projects_has_no_service_that_changes_something() -> None:
    for verb in ("store", "commit", "worklist", "mpps"):
        with pytest.raises(ValidationError, match=f"take {verb} out of may"):
            Peer(ae_title="X", may=("query", verb), projects=("alpha",))
    with pytest.raises(ValidationError, match="take commit, mpps, store, worklist out of may"):
        Peer(ae_title="X", projects=("alpha",))


def test_behind_another_acceptor_a_peer_with_projects_reads_nothing(start_node: StartNode) -> None:
    peer = Peer(ae_title="ALPHA", may=tuple(READING_VERBS), projects=("alpha",))
    node = start_node(peers={"alpha": peer}, acceptor="pynetdicom")
    assoc = associate(node, build_context(uids.STUDY_ROOT_FIND), build_context(CT_IMAGE_STORAGE), title="ALPHA")
    [(status, _)] = assoc.send_c_find(identifier("STUDY", StudyInstanceUID=""), uids.STUDY_ROOT_FIND)
    assoc.release()
    assert status.Status == 0x0124


@pytest.mark.parametrize("accepting", ["node", "pynetdicom"])
def test_each_acceptor_serves_within_the_projects_of_a_peer(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, accepting: str
) -> None:
    # No configuration gives this right: one that does tomorrow finds that its operations are narrowed.
    monkeypatch.setattr("node.settings.peers.READING_VERBS", frozenset({"commit"}))
    peer = Peer(ae_title="ALPHA", may=("commit",), projects=("alpha",), releases=False)
    node = start_node(peers={"committing": peer}, acceptor=accepting)
    seen: list[object] = []

    def serve(operation: Any) -> None:
        seen.extend((current_scope(), operation.origin.releases))
        operation.respond(0, AffectedSOPInstanceUID=uids.STORAGE_COMMITMENT_INSTANCE, ActionTypeID=1)

    key = 0x0130, uids.STORAGE_COMMITMENT
    monkeypatch.setattr(node.listener, "operations", {**node.listener.operations, key: serve})
    assoc = associate(node, build_context(uids.STORAGE_COMMITMENT), title="ALPHA")
    information = Dataset()
    information.TransactionUID = "1.2.3"
    answer, _ = assoc.send_n_action(information, 1, uids.STORAGE_COMMITMENT, uids.STORAGE_COMMITMENT_INSTANCE)
    assoc.release()
    assert (answer.Status, seen) == (0, [Scope(projects=("alpha",)), False])

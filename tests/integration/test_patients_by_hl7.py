"""Patients that HL7 messages merge and take apart: the same rows as by command."""

from __future__ import annotations

import pytest
from pydicom import config

from node.association.added import OpenedRoot
from node.audit.audit_log import Audit
from node.extensions.worklist.hl7 import MessageRefused, parse
from node.extensions.worklist.mllp import MllpListener
from node.extensions.worklist.patients import PatientChanges, changes_of
from node.extensions.worklist.scheduled_rows import ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.nouns.persons import PersonRepository
from node.metrics import Metrics
from node.settings.model import Settings
from tests.integration.conftest import Root
from tests.integration.test_patients import PEOPLE, number, owners, table_rows, take
from tests.protocol.test_hl7 import Sender, written


@pytest.fixture
def changes(root: Root, settings: Settings) -> PatientChanges:
    return PatientChanges(OpenedRoot(settings, root.ingest, Audit(root.folder, "VOXELNODE", now=root.clock)))


def sent(changes: PatientChanges, *segments: str, kind: str = "ADT^A40") -> list[str]:
    text = "\r".join((f"MSH|^~\\&|RIS|HOSPITAL|||20260101||{kind}|1|P|2.5.1", *segments, ""))
    found = changes_of(parse(text.encode()))
    assert found is not None
    return [changes.make(change, "HL7 10.0.0.1") for change in found]


def test_a_merge_and_its_end_by_hl7_leave_the_index_as_it_was(root: Root, changes: PatientChanges) -> None:
    first, second = take(root, "OLD"), take(root, "NEW")
    before = table_rows(root)
    assert sent(changes, "PID|||NEW", "MRG|OLD") == ["merged"]
    assert owners(root) == {first: "NEW", second: "NEW"}
    assert sent(changes, "PID|||NEW", "MRG|OLD") == ["nothing to change"]
    assert sent(changes, "PID|||NEW", "PID|||OLD", kind="ADT^A37") == ["separated"]
    assert table_rows(root) == before
    assert sent(changes, "PID|||NEW", "PID|||OLD", kind="ADT^A37") == ["nothing to change"]
    assert "HL7 10.0.0.1" in (root.folder / "audit.jsonl").read_text()


def test_a_temporary_patient_is_merged_into_one_without_studies(root: Root, changes: PatientChanges) -> None:
    study = take(root, "TEMP")
    before = table_rows(root)
    assert sent(changes, "PID|||REAL^^^HOSPITAL||Real^Person||19700101|F", "MRG|TEMP") == ["merged"]
    assert owners(root) == {study: "REAL"}
    shown = root.index.repository(PersonRepository).shown(number(root, "REAL"), 1)
    assert shown is not None
    assert (shown["patient_name"], shown["issuer_of_patient_id"], shown["count"]) == ("Real^Person", "HOSPITAL", 1)
    assert sent(changes, "PID|||REAL^^^HOSPITAL", "PID|||TEMP", kind="ADT^A37") == ["separated"]
    assert table_rows(root) == before


def test_who_is_not_here_or_not_alone_changes_nothing(root: Root, changes: PatientChanges) -> None:
    for person in PEOPLE[:2]:
        take(root, **person)
    before = table_rows(root)
    assert sent(changes, "PID|||P1X", "MRG|NOBODY") == ["nothing to change"]
    with pytest.raises(MessageRefused, match="people share this Patient ID"):
        sent(changes, "PID|||NEW", "MRG|P1")
    for segments in (("PID|||A",), ("PID|||A", "MRG|"), ("MRG|A",)):
        with pytest.raises(MessageRefused, match="PID"):
            sent(changes, *segments)
    assert table_rows(root) == before


def test_the_port_takes_them_beside_orders(root: Root, changes: PatientChanges) -> None:
    study = take(root, "OLD")
    take(root, "NEW")
    listener = MllpListener(
        WorklistSettings(hl7_port=0),
        "VOXELNODE",
        root.index.repository(ScheduledStepRepository),
        Metrics(),
        patients=changes,
    )
    listener.start()
    try:
        with Sender(listener.port) as sender:
            header = b"MSH|^~\\&|RIS|HOSPITAL|||20260101||ADT^A40|M1|P|2.5.1\r"
            assert sender.send(header + b"PID|||NEW\rMRG|OLD\r") == ["MSA", "AA", "M1", "merged"]
            assert sender.send(header + b"PID|||NEW\r")[1] == "AE"
            assert sender.send(written())[1] == "AA"
    finally:
        listener.stop()
    assert owners(root)[study] == "NEW"


def test_pseudonyms_of_128_characters_are_merged(root: Root, changes: PatientChanges) -> None:
    old, new = "f" * 127 + "1", "f" * 127 + "2"
    with config.disable_value_validation():
        first, second = take(root, old), take(root, new)
    assert owners(root) == {first: old, second: new}
    assert sent(changes, f"PID|||{new}", f"MRG|{old}") == ["merged"]
    assert owners(root) == {first: new, second: new}
    with pytest.raises(MessageRefused, match="no text of more than 1024 bytes"):
        sent(changes, f"PID|||{new * 10}", f"MRG|{old}")

"""Merging two patients: whose the studies are, now and when more of them come."""

from __future__ import annotations

from typing import Any

import pytest

from node.index.nouns.patients import NoSuchPatient
from tests import make
from tests.integration.conftest import Root
from tests.rows import view_rows


def rows(root: Root, query: str, **values: Any) -> list[dict[str, Any]]:
    return view_rows(root.folder, query, **values)


def number(root: Root, patient_id: str) -> int:
    [row] = rows(root, "SELECT id FROM v_patients WHERE patient_id = :id", id=patient_id)
    return int(row["id"])


def take(root: Root, patient_id: str, **more: Any) -> str:
    [ds] = make.ct_series(1, PatientID=patient_id, **more)
    root.take(ds)
    return str(ds.StudyInstanceUID)


def owners(root: Root) -> dict[str, str]:
    query = "SELECT study_instance_uid, patient_id FROM v_studies"
    return {row["study_instance_uid"]: row["patient_id"] for row in rows(root, query)}


def test_the_studies_of_one_are_those_of_the_other_from_then_on(root: Root) -> None:
    first, second = take(root, "OLD"), take(root, "NEW")
    merged = root.index.patients.merge(number(root, "OLD"), number(root, "NEW"), root.clock())
    assert merged.studies == (first,)
    later = take(root, "OLD")
    assert owners(root) == {first: "NEW", second: "NEW", later: "NEW"}
    assert rows(root, "SELECT 1 FROM v_conflicts") == []
    [event] = rows(root, "SELECT * FROM v_events")
    assert (event["kind"], event["study_instance_uid"]) == ("patient-merged", first)


def test_an_instance_of_a_moved_study_is_no_conflict(root: Root) -> None:
    instances = make.ct_series(2, PatientID="OLD")
    root.take(instances[0])
    take(root, "NEW")
    root.index.patients.merge(number(root, "OLD"), number(root, "NEW"), root.clock())
    root.take(instances[1])
    assert rows(root, "SELECT 1 FROM v_conflicts") == []
    assert rows(root, "SELECT instances FROM v_series WHERE instances = 2")


def test_a_chain_of_merges_leads_to_its_end(root: Root) -> None:
    for patient_id in ("A", "B", "C"):
        take(root, patient_id)
    a, b, c = (number(root, patient_id) for patient_id in ("A", "B", "C"))
    root.index.patients.merge(a, b, root.clock())
    root.index.patients.merge(b, c, root.clock())
    take(root, "A")
    assert set(owners(root).values()) == {"C"}
    with pytest.raises(NoSuchPatient, match=f"#{a} was merged into #{c}"):
        root.index.patients.merge(a, b, root.clock())


def test_nobody_is_merged_with_himself_or_with_nobody(root: Root) -> None:
    take(root, "A")
    with pytest.raises(NoSuchPatient, match="into itself"):
        root.index.patients.merge(number(root, "A"), number(root, "A"), root.clock())
    with pytest.raises(NoSuchPatient, match="no patient #99"):
        root.index.patients.merge(number(root, "A"), 99, root.clock())

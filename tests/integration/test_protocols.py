"""What the series of a protocol usually have: learnt from those that were converted, and no alarm where they vary."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydicom.uid import RawDataStorage, generate_uid
from sqlalchemy import select, update

from node.completeness import Findings, InstanceCounts, Usual, expectation, verdict_of
from node.index.models.levels import SeriesRow
from node.index.models.work import ProtocolRow
from node.index.nouns.protocols import KEPT, MAX_SERIES, learn, usual_count, usual_of
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_lifecycle import settle, settle_all, told_by_sidecars

USUAL = 8


class Memory:
    """Series of one protocol, each of a study of its own; their numbers of instances are only said."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._number = 0

    def of(self, *counts: int, **about: Any) -> Usual | None:
        """Take one series after the other; return what is unusual about the last one before it is learnt."""
        usual = None
        for count in counts:
            self._number += 1
            ds = make.ct_series(1, **({"ProtocolName": "CHEST", "SeriesDescription": "1 mm"} | about))[0]
            self.root.take(ds)
            usual = self._seen(str(ds.SeriesInstanceUID), count)
        return usual

    def again(self, uid: str, count: int) -> Usual | None:
        return self._seen(uid, count)

    def _seen(self, uid: str, count: int) -> Usual | None:
        with self.root.index._engine.begin() as connection:
            row = connection.execute(select(SeriesRow.__table__).where(SeriesRow.series_instance_uid == uid)).one()
            connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(state="converted"))
            usual = usual_of(connection, row, count)
            learn(connection, row.id, count, self.root.clock())
        return usual


@pytest.mark.slow
def test_half_of_what_a_protocol_usually_has_is_suspect_and_the_reason_says_from_what(root: Root) -> None:
    for _ in range(10):
        root.take_all(make.ct_series(USUAL, ProtocolName="CHEST"))
        settle(root)
        root.clock.move(86400)
    first = root.rows("SELECT study_instance_uid FROM v_studies ORDER BY study_instance_uid")
    half = make.ct_series(USUAL, ProtocolName="CHEST")[: USUAL // 2]
    root.take_all(half)
    settle(root)
    [row] = root.rows("SELECT * FROM v_series WHERE series_instance_uid = :uid", uid=str(half[0].SeriesInstanceUID))
    assert (row["verdict"], row["verdict_rule"], row["missing_instances"]) == ("suspect", "protocol", 4)
    assert (
        "10 of the last 10 series of this protocol have 8 instances (2026-01-01 to 2026-01-10" in row["verdict_reason"]
    )
    assert any(study["study_instance_uid"] in row["verdict_reason"] for study in first)


@pytest.mark.parametrize(
    ("counts", "is_unusual"),
    [
        ([USUAL] * 9, False),
        ([USUAL] * 10, True),
        ([*[USUAL] * 18, 5, 6], True),
        ([*[USUAL] * 17, 5, 6, 7], False),
        ([*range(20, 40)], False),
        ([USUAL, 16] * 10, False),
        ([*[USUAL] * 30, 4, 4], False),
        ([*[USUAL] * 30, 4], True),
        ([3] * 20, False),
        ([4] * 20, False),
    ],
    ids=[
        "few series", "enough series", "nearly all alike", "not nearly all alike", "varied", "two kinds", "a variant",
        "not yet a variant", "more than usual", "as many as usual",
    ],
)  # fmt: skip
def test_only_fewer_than_nearly_all_have_is_unusual(counts: list[int], is_unusual: bool) -> None:
    assert (usual_count(counts, 4) is not None) == is_unusual


@pytest.mark.slow
def test_another_protocol_scanner_or_matrix_has_a_memory_of_its_own(root: Root) -> None:
    memory = Memory(root)
    memory.of(*[USUAL] * 10)
    others: list[dict[str, Any]] = [
        {"ProtocolName": "HEAD"},
        {"SeriesDescription": "5 mm"},
        {"StationName": "CT2"},
        {"Modality": "PT"},
        {"rows": 20},
        {"BodyPartExamined": "HEAD"},
    ]
    for about in others:
        assert memory.of(4, **about) is None
    assert memory.of(4) is not None


@pytest.mark.slow
def test_series_without_a_name_are_not_compared(root: Root) -> None:
    assert Memory(root).of(*[USUAL] * 12, 4, ProtocolName=None, SeriesDescription=None) is None


@pytest.mark.slow
def test_a_series_counts_once_and_a_protocol_is_forgotten_some_day(root: Root) -> None:
    memory = Memory(root)
    memory.of(*[USUAL] * 9)
    [*_, last] = root.rows("SELECT series_instance_uid FROM v_series")
    for _ in range(5):
        memory.again(last["series_instance_uid"], USUAL)
    assert memory.of(4) is None
    root.clock.move((KEPT + dt.timedelta(days=1)).total_seconds())
    memory.of(USUAL, ProtocolName="HEAD")
    assert memory.of(*[USUAL] * 9, 4) is None


def test_a_count_that_agrees_outweighs_what_is_usual() -> None:
    usual = Usual(USUAL, 12, 12, "2026-01-01", "2026-02-01")
    counts = [InstanceCounts(instance_number=number, images_in_acquisition=4) for number in range(4)]
    assert verdict_of(expectation(counts, usual=usual), Findings(placed=True, times=1)).state == "complete"


@pytest.mark.slow
def test_a_field_map_without_its_other_half_is_suspect_until_that_comes(root: Root) -> None:
    def field_map(study: str, *directions: str) -> list[str]:
        uids = []
        for number, direction in enumerate(directions):
            protocol = {"ProtocolName": f"SEFieldMap_{direction}", "SeriesNumber": number}
            series = make.mr_series(2, study_uid=study, **protocol)
            root.take_all(series)
            settle(root)
            uids.append(str(series[0].SeriesInstanceUID))
        root.clock.move(86400)
        root.index.studies.mark_quiet(dt.timedelta(seconds=900), root.clock())
        settle_all(root)  # what is doubted, or no more, is converted again
        root.clock.move(3600)
        root.index.studies.mark_quiet(dt.timedelta(seconds=900), root.clock())
        assert settle_all(root) == 0, "it is converted once"
        return uids

    def verdict_of(uid: str) -> tuple[Any, ...]:
        [row] = root.rows("SELECT * FROM v_series WHERE series_instance_uid = :uid", uid=uid)
        assert told_by_sidecars(root, uid, "state", "reason") == {(row["verdict"], row["verdict_reason"])}
        return row["verdict"], row["verdict_rule"], row["verdict_reason"], row["missing_detail"]

    for _ in range(10):
        pair = field_map(generate_uid(), "AP", "PA")
        assert {verdict_of(uid)[0] for uid in pair} == {"complete"}
    study = generate_uid()
    [lone] = field_map(study, "AP")
    state, rule, reason, missing = verdict_of(lone)
    assert (state, rule, missing) == ("suspect", "protocol", "1 series of this protocol")
    assert reason.startswith("10 of the last 10 studies with this protocol have 2 series of it (2026-01-02 to 2026-01-")
    [other] = field_map(study, "PA")
    assert [verdict_of(uid)[:2] for uid in (lone, other)] == [("complete", "geometry")] * 2


@pytest.mark.slow
def test_series_without_pixels_are_neither_counted_beside_images_nor_compared_among_themselves(root: Root) -> None:
    raw: dict[str, Any] = {"sop_class_uid": RawDataStorage, "modality": "MR", "ProtocolName": "t2"}
    for instances in (*[USUAL] * 10, USUAL // 2, 0):
        study, series_uid = generate_uid(), generate_uid()
        root.take_all(make.mr_series(2, study_uid=study, ProtocolName="t2"))
        root.take_all(make.instance(study_uid=study, series_uid=series_uid, **raw) for _ in range(instances))
        settle(root)
        settle_all(root)
        root.clock.move(86400)
        root.index.studies.mark_quiet(dt.timedelta(seconds=900), root.clock())
    assert {row["verdict"] for row in root.rows("SELECT verdict FROM v_series")} == {"complete"}


@pytest.mark.slow
def test_a_protocol_that_has_changed_is_learnt_again(root: Root) -> None:
    memory = Memory(root)
    memory.of(16)
    [first] = root.rows("SELECT series_instance_uid FROM v_series")
    with root.index._engine.begin() as connection:
        connection.execute(update(ProtocolRow).values(series=[("other", 16, "2025-01-01")] * MAX_SERIES))
    for number in range(MAX_SERIES):
        assert memory.again(first["series_instance_uid"], 16) is None, number
    assert memory.of(USUAL) is not None
    assert memory.of(USUAL) is not None
    assert memory.of(USUAL) is None


def test_the_memory_survives_the_deletion_of_its_series_and_names_nobody(root: Root) -> None:
    memory = Memory(root)
    memory.of(*[USUAL] * 12, SeriesDescription="DOE JANE")
    with root.index._engine.connect() as connection:
        [text] = connection.exec_driver_sql("SELECT series FROM protocols").scalars()
    assert "DOE" not in text

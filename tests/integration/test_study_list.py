"""The list of studies: what finds them, and how its pages follow each other."""

import datetime as dt
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from node.control.repository import Repository
from node.index import reading
from node.index.look.study_search import StudyFilter, StudyOrder
from tests import make
from tests.ingest import settings_of
from tests.integration.conftest import bring

pytestmark = pytest.mark.postgresql


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Repository]:
    with Repository(settings_of(tmp_path / "root")) as store:
        yield store


def take(store: Repository, number: int, **attributes: Any) -> None:
    """One study of one instance, ``1.2.<number>``."""
    bring(store.ingest, make.instance(study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1", **attributes))


def found(store: Repository, **wanted: Any) -> list[str]:
    with store.index.reading() as index:
        return [study.study_instance_uid for study in index.studies.listed(StudyFilter(**wanted))]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "words", ["müller", "MÜLLER", "Muller", "Müller, Anna", "anna müll", "P-7", "acc-9", " müller ", "a acc-9 müll p-7"]
)
def test_words_are_found_in_name_id_and_accession_number_in_any_order(store: Repository, words: str) -> None:
    about = {"PatientName": "Müller^Anna", "PatientID": "P-77", "AccessionNumber": "ACC-99"}
    take(store, 1, SpecificCharacterSet="ISO_IR 192", **about)
    take(store, 2, PatientName="Smith^John", PatientID="Q", AccessionNumber="1")
    assert found(store, words=words) == ["1.2.1"]
    assert found(store, words=f"{words} smith") == []


@pytest.mark.parametrize("words", ["%", "_", "\\", "%%", "' OR 1=1 --"])
def test_signs_of_patterns_are_no_patterns(store: Repository, words: str) -> None:
    take(store, 1)
    assert found(store, words=words) == []


def test_a_description_is_looked_for_in_the_study_and_in_its_series(store: Repository) -> None:
    take(store, 1, StudyDescription="CT head")
    take(store, 2, SeriesDescription="head 1.0 B30")
    take(store, 3, StudyDescription="knee")
    assert found(store, description="head") == ["1.2.2", "1.2.1"]


def test_dates_are_bounds_that_are_included(store: Repository) -> None:
    for day in (1, 2, 3, 4):
        take(store, day, StudyDate=f"2026010{day}")
    assert found(store, first_date=dt.date(2026, 1, 2), last_date=dt.date(2026, 1, 3)) == ["1.2.3", "1.2.2"]


@pytest.mark.slow
def test_pages_follow_each_other_without_a_gap_or_a_repeat(store: Repository) -> None:
    for number, text in enumerate(["c", "", "a", "c", "", "b", "c"], start=1):
        own = {"PatientName": text, "AccessionNumber": text, "StudyDescription": text, "PatientID": text}
        take(store, number, StudyDate=f"2026010{ord(text) - 96}" if text else "", **own)
    by_text = "2536147"
    expected = {"received": "7654321", "date": "7416352", "name": by_text, "accession": by_text, "description": by_text}
    expected["patient-id"] = by_text
    for order, reverse in product(get_args(StudyOrder), (False, True)):
        with store.index.reading() as index:
            seen, after = [], None
            while page := index.studies.listed(StudyFilter(), order, after, 2, reverse=reverse):
                seen += [study.study_instance_uid.removeprefix("1.2.") for study in page]
                after = page[-1].cursor
        assert "".join(seen) == expected[order][:: -1 if reverse else 1], (order, reverse)
    with store.index.reading() as index:
        assert [len(index.studies.matching(StudyFilter(words="c")).page(limit=limit)) for limit in (2, 9)] == [2, 3]


def test_one_of_several_modalities_is_enough(store: Repository) -> None:
    take(store, 1, Modality="CT")
    take(store, 2, Modality="MR")
    take(store, 3, Modality="US")
    assert found(store, modalities=("CT", "US")) == ["1.2.3", "1.2.1"]
    assert found(store, modalities=("XX",)) == found(store, condition="verified") == []


@pytest.mark.slow
def test_a_search_finds_the_same_by_a_list_and_by_lookups(store: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which way is taken depends on how common a text is, and all of these ways have to find the same."""
    texts = {1: ("Anna^A", "A1", "X-1", "Head"), 2: ("Ben^B", "a-2", "ANNA", "head 2"), 3: ("Carl", "3", "Y", "knee %")}
    for number, (name, id, accession, description) in texts.items():
        about = {"PatientName": name, "PatientID": id, "AccessionNumber": accession}
        take(store, number, **about, SeriesDescription=description, StudyDescription="")
    by_words = {
        "anna": "21",
        "anna a": "21",
        "a-2 anna": "2",
        "anna x-1": "1",
        "x-1 y": "",
        "qq": "",
        "%": "",
        "A": "321",
    }
    by_description = {"head": "21", "HEAD 2": "2", "knee %": "3", "%": "3", "_": "", "e": "321", "qq": ""}

    def require(field: str, expected: dict[str, str]) -> None:
        with store.index.reading() as index:
            for text, numbers in expected.items():
                wanted = StudyFilter(**{field: text})  # type: ignore[arg-type]
                assert [f"1.2.{number}" for number in numbers] == found(store, **{field: text}), text
                assert len(index.studies.matching(wanted).page("name")) == len(numbers), text
                assert index.studies.matching(wanted).count() == len(numbers), text

    for few in (0, 9):
        monkeypatch.setattr("node.index.look.study_search.FEW_STUDIES", few)
        require("words", by_words)
        require("description", by_description)
        for walked in (1, 9):
            monkeypatch.setattr("node.index.look.study_search.WALKED_STUDIES", walked)
            assert found(store, words="a", description="head", modalities=("CT", "MR")) == ["1.2.2", "1.2.1"]
            assert found(store, words="a", description="knee", condition="open") == ["1.2.3"]
            assert found(store, words="x", description="knee") == []


def test_counts_of_a_large_index_are_kept_for_a_while_except_those_of_open_series(
    store: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    counts = reading.LargeCounts(lambda: now[0])

    def seen() -> tuple[int, dict[str, int]]:
        with store.index.reading() as index:
            levels, states, failures = counts.levels(index), counts.states(index), counts.failures(index)
            assert (levels.at is None) == (states.at is None) == (reading.LARGE_ROWS > 0)
            assert failures == reading.Counted({})
            return levels.numbers["instances"], dict(states.numbers)

    take(store, 1)
    assert seen() == (1, {"receiving": 1})
    take(store, 2)
    assert seen() == (2, {"receiving": 2})  # the index is small
    monkeypatch.setattr(reading, "LARGE_ROWS", 0)
    assert seen() == (2, {"receiving": 2})
    take(store, 3)
    now[0] = reading.KEPT_SECONDS - 1
    assert seen() == (2, {"receiving": 3})
    now[0] = reading.KEPT_SECONDS
    assert seen() == (3, {"receiving": 3})

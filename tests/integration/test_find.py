"""What queries find in a real index, compared with a plain reading of PS3.4 C.2.2.2 over the same rows."""

from __future__ import annotations

import datetime as dt
import random
import re
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom import config as pydicom_config
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import String, bindparam, insert, select

from node.api import ImageRow, Index, PatientRow, SeriesRow, StudyRow
from node.dicom.answers import AnswerEncoder
from node.dicom.attributes import clock_of
from node.dicom.keys import KEYS, SUPPORTED, UNIQUE_KEYS, Level, QueryModel
from node.dicom.matching import Options, Query, read_query
from node.index.look.finder import MAX_RUNNING, QueryRefused, QueryStopped, pause_seconds
from node.index.look.study_search import StudyFilter
from node.index.rows.hot_statements import PreparedRows
from node.index.rows.place import open_engine
from node.runtime.budget import Turns
from node.runtime.metrics import Metrics
from tests import make
from tests.made_once import IN_POSTGRESQL
from tests.pace import idle_seconds, now
from tests.rows import view_rows

RELATIONAL = Options(relational=True)
NAMES = (
    "Doe^Jane", "DOE^JOHN", "Doe^John^^Dr", "doe", "D_e^J%ne", "[oe^Jane", "Dœ^Zoé", "Müller^Jörg", "MULLER^JORG",
    "Yamada^Tarou=山田^太郎=やまだ^たろう", "ﾔﾏﾀﾞ^ﾀﾛｳ", "O'Neil^Ann", "a" * 64, "Strauß^Eva", None,
)  # fmt: skip
TEXTS = ("A", "a", "B%_[", "B\\'", "1*2", "7", "ab", "abab", "Kopf ä", "[ab]", "]", None)
DATES = ("20231231", "20240101", "20240102", "20240229", "20250101", None)
TIMES = ("000000", "10", "1015", "101500.0", "101530", "101530.50", "235959.999999", None)
MODALITIES = ("CT", "MR", "SR", "PT", None)


@dataclass(repr=False)
class Row:
    """One entity: its attributes as DICOM says them, and what it belongs to."""

    level: Level
    id: int
    values: dict[str, str | None]
    parent: Row | None = None
    children: list[Row] = field(default_factory=list)
    aliases: list[dict[str, str | None]] = field(default_factory=list)  # of patients that were merged into this one


def population(seed: int = 6) -> tuple[list[Row], list[dict[str, Any]]]:
    """Patients with all that is theirs, and merged ones as (values, target)."""
    chance = random.Random(seed)
    ids = dict.fromkeys(Level, 0)

    def row(level: Level, values: dict[str, str | None], parent: Row | None = None) -> Row:
        ids[level] += 1
        made = Row(level, ids[level], values, parent)
        if parent is not None:
            parent.children.append(made)
        return made

    def patient_values() -> dict[str, str | None]:
        return {
            "PatientID": chance.choice(TEXTS), "PatientName": chance.choice(NAMES),
            "PatientBirthDate": chance.choice(DATES), "PatientSex": chance.choice(("F", "M", None)),
        }  # fmt: skip

    patients = [row(Level.PATIENT, patient_values()) for _ in range(60)]
    for patient in patients:
        for _ in range(chance.randrange(1, 4)):  # the index has no patient without a study, but merged ones
            study = row(
                Level.STUDY,
                {
                    "StudyInstanceUID": f"1.{ids[Level.STUDY]}", "StudyDate": chance.choice(DATES),
                    "StudyTime": chance.choice(TIMES), "StudyDescription": chance.choice(TEXTS),
                    "ReferringPhysicianName": chance.choice(NAMES), "AccessionNumber": chance.choice(TEXTS),
                },
                patient,
            )  # fmt: skip
            for _ in range(chance.randrange(1, 4)):
                series = row(
                    Level.SERIES,
                    {
                        "SeriesInstanceUID": f"1.1.{ids[Level.SERIES]}", "Modality": chance.choice(MODALITIES),
                        "SeriesNumber": chance.choice(("1", "2", None)), "SeriesDescription": chance.choice(TEXTS),
                    },
                    study,
                )  # fmt: skip
                for _ in range(chance.randrange(1, 4)):
                    values = {
                        "SOPInstanceUID": f"1.1.1.{ids[Level.IMAGE]}", "SOPClassUID": chance.choice(("1.5", "1.6")),
                        "InstanceNumber": chance.choice(("1", "2", None)),
                    }  # fmt: skip
                    row(Level.IMAGE, values, series)
    merged = [patient_values() for _ in range(4)]
    for values, target in zip(merged, patients, strict=False):
        target.aliases.append(values)
    return patients, merged


class World:
    """An index and the rows in it, by level."""

    def __init__(self, index: Index, rows: dict[Level, list[Row]]) -> None:
        self.index, self.rows = index, rows


def stored(keyword: str, text: str | None) -> Any:
    """A value as the index holds it."""
    if text is None:
        return None
    match KEYS[keyword].vr:
        case "DA":
            return dt.datetime.strptime(text, "%Y%m%d").date()
        case "TM":
            return clock_of(text)
        case "IS":
            return int(text)
    return text


def columns(row: Row) -> dict[str, Any]:
    return {str(KEYS[keyword].column): stored(keyword, text) for keyword, text in row.values.items()}


def below(rows: list[Row]) -> list[Row]:
    return [child for row in rows for child in row.children]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    empty = Index(root, Metrics())
    empty.close()
    patients, merged = population()
    rows = {Level.PATIENT: patients}
    for level in (Level.STUDY, Level.SERIES, Level.IMAGE):
        rows[level] = below(rows[Level(level - 1)])
    now = dt.datetime.now(dt.UTC)
    extra: dict[Level, Callable[[Row], dict[str, Any]]] = {
        Level.PATIENT: lambda row: {"identity": str(row.id)},
        Level.STUDY: lambda row: {"patient_id": row.parent.id if row.parent else 0},
        Level.SERIES: lambda row: {"study_id": row.parent.id if row.parent else 0, "last_received_at": now},
        Level.IMAGE: lambda row: {
            "series_id": row.parent.id if row.parent else 0, "transfer_syntax_uid": "1.2", "bytes": 1, "sha256": "",
            "data_set_offset": 0, "key": str(row.id), "source": "dicom", "received_at": now,
        },
    }  # fmt: skip
    engine = open_engine(empty.place)
    with engine.begin() as connection:
        for level, table in (
            (Level.PATIENT, PatientRow),
            (Level.STUDY, StudyRow),
            (Level.SERIES, SeriesRow),
            (Level.IMAGE, ImageRow),
        ):
            for row in rows[level]:
                connection.execute(insert(table).values(id=row.id, **columns(row), **extra[level](row)))
        for number, (values, target) in enumerate(zip(merged, patients, strict=False)):
            alias = Row(Level.PATIENT, 1000 + number, values)
            connection.execute(
                insert(PatientRow).values(id=alias.id, identity=f"m{number}", merged_into=target.id, **columns(alias))
            )
    engine.dispose()
    index = Index(root, Metrics())
    yield World(index, rows)
    index.close()


# The plain reading


def plain_name(text: str) -> str:
    """Case, accents and widths do not count; nor do empty components at the end."""
    text = unicodedata.normalize("NFKC", text).casefold()
    letters = unicodedata.normalize("NFD", text)
    text = unicodedata.normalize("NFC", "".join(c for c in letters if not 0x300 <= ord(c) < 0x370))
    return text.rstrip("^")


def wild(pattern: str, text: str) -> bool:
    return (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL) is not None
    )


def moment(text: str, last: bool) -> str:
    """A time in full."""
    digits, _, fraction = text.partition(".")
    filler = "5959" if last else "0000"
    return digits + filler[len(digits) - 2 :] + "." + fraction.ljust(6, "9" if last else "0")


def means(keyword: str, key: str, value: str | None) -> bool:
    """Whether a value matches one key."""
    if key.strip("*") == "":
        return True
    if value is None:
        return False
    vr = KEYS[keyword].vr
    if vr == "PN":
        pattern, groups = plain_name(key), [plain_name(group) for group in value.split("=")]
        return any(wild(pattern, group) for group in groups)
    if vr in ("DA", "TM"):
        first, hyphen, last = key.partition("-")
        if not hyphen:
            last = first
        if vr == "DA":
            return (first or "0") <= value <= (last or "9")
        exact = moment(value, False)
        return (not first or moment(first, False) <= exact) and (not last or exact <= moment(last, True))
    if vr in ("UI", "IS"):
        return value in key.split("\\")
    return wild(key, value)


def holds(row: Row, keyword: str, key: str) -> bool:
    """Whether what a row says of itself matches; several values of a study are matched one by one."""
    if keyword == "ModalitiesInStudy":
        return any(means(keyword, key, series.values["Modality"]) for series in row.children) or key.strip("*") == ""
    if keyword == "SOPClassesInStudy":
        images = [image for series in row.children for image in series.children]
        return any(means(keyword, key, image.values["SOPClassUID"]) for image in images) or key.strip("*") == ""
    return means(keyword, key, row.values[keyword])


def expected(rows: list[Row], keys: dict[str, str]) -> set[int]:
    return {row.id for row in rows if fits(row, keys)}


def fits(row: Row, keys: dict[str, str]) -> bool:
    """Whether a row, all above it, and something below it match."""
    mine = {keyword: key for keyword, key in keys.items() if KEYS[keyword].level == row.level}
    if row.level == Level.PATIENT:
        known = [row.values, *row.aliases]
        agree = any(all(means(keyword, key, one[keyword]) for keyword, key in mine.items()) for one in known)
    else:
        agree = all(holds(row, keyword, key) for keyword, key in mine.items())
    above = {keyword: key for keyword, key in keys.items() if KEYS[keyword].level < row.level}
    lower = {keyword: key for keyword, key in keys.items() if KEYS[keyword].level > row.level and key.strip("*")}
    return (
        agree
        and (not above or row.parent is None or fits(row.parent, above))
        and (not lower or any(fits(child, lower) for child in row.children))
    )


def identifier(level: Level, keys: dict[str, str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level.name
    for keyword, key in keys.items():
        value = key if "\\" not in key else key.split("\\")
        ds.add(DataElement(keyword, KEYS[keyword].vr, value, validation_mode=pydicom_config.IGNORE))
    return ds


def answered(index: Index, query: Query) -> list[Dataset]:
    """The answers to a query as pydicom reads what a peer is sent."""
    encode = AnswerEncoder(query.returned, ExplicitVRLittleEndian, query.items).encode
    return [
        read_dataset(BytesIO(encode(answer)), is_implicit_VR=False, is_little_endian=True)
        for answer in index.find(query)
    ]


def identities(world: World, query: Query) -> set[int]:
    """The rows that a query found, by the unique key."""
    found = answered(world.index, query)
    keyword = UNIQUE_KEYS[query.level]
    by_uid = {row.values[keyword]: row.id for row in world.rows[query.level]}
    assert len({one[keyword].value for one in found}) == len(found)
    return {by_uid[one[keyword].value] for one in found}


def patterns(values: tuple[str | None, ...]) -> st.SearchStrategy[str]:
    """A value, a value with wild cards in it, or any text of such letters."""
    known = st.sampled_from([value for value in values if value is not None and "=" not in value and "\\" not in value])

    def with_wild_cards(text: str) -> st.SearchStrategy[str]:
        return st.lists(st.sampled_from("*?"), min_size=1, max_size=2).flatmap(
            lambda wilds: st.lists(st.integers(0, len(text)), min_size=len(wilds), max_size=len(wilds)).map(
                lambda places: put(text, wilds, places)
            )
        )

    def put(text: str, wilds: list[str], places: list[int]) -> str:
        for sign, place in zip(wilds, places, strict=True):
            text = text[:place] + sign + text[place + (sign == "?") :]
        return text

    return st.one_of(
        known, known.flatmap(with_wild_cards), st.text("aAbB%_[]*?'1", min_size=1, max_size=6), st.just("*")
    )


def ranges(values: tuple[str | None, ...]) -> st.SearchStrategy[str]:
    known = st.sampled_from([value for value in values if value is not None])
    return st.one_of(
        known,
        known.map(lambda one: f"{one}-"),
        known.map(lambda one: f"-{one}"),
        st.tuples(known, known).map(lambda two: f"{min(two)}-{max(two)}"),
    )


KEY_VALUES: dict[str, st.SearchStrategy[str]] = {
    "PatientID": patterns(TEXTS), "PatientName": patterns(NAMES), "PatientBirthDate": ranges(DATES),
    "PatientSex": patterns(("F", "M", None)), "StudyInstanceUID": st.sampled_from(["1.0", "1.1\\1.3\\1.99", "1.5"]),
    "StudyDate": ranges(DATES), "StudyTime": ranges(("10", "1015", "101530", "101530.5", "000000", "2359")),
    "StudyDescription": patterns(TEXTS), "ReferringPhysicianName": patterns(NAMES), "AccessionNumber": patterns(TEXTS),
    "ModalitiesInStudy": patterns(MODALITIES), "SOPClassesInStudy": st.sampled_from(["1.5", "1.6", "1.7", "1.5\\1.7"]),
    "Modality": patterns(MODALITIES), "SeriesNumber": st.sampled_from(["1", "2", "1\\2"]),
    "SeriesDescription": patterns(TEXTS), "SeriesInstanceUID": st.sampled_from(["1.1.0", "1.1.1\\1.1.4", "1.1.9"]),
    "SOPInstanceUID": st.sampled_from(["1.1.1.0", "1.1.1.7\\1.1.1.8"]), "SOPClassUID": st.sampled_from(["1.5", "1.6"]),
    "InstanceNumber": st.sampled_from(["1", "2"]),
}  # fmt: skip


@st.composite
def asked(draw: st.DrawFn) -> dict[str, str]:
    keywords = draw(st.lists(st.sampled_from(sorted(KEY_VALUES)), max_size=4, unique=True))
    return {keyword: draw(KEY_VALUES[keyword]) for keyword in keywords}


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=asked(), level=st.sampled_from([Level.STUDY, Level.SERIES, Level.IMAGE]))
def test_the_index_finds_what_a_plain_reading_finds(world: World, keys: dict[str, str], level: Level) -> None:
    query = read_query(identifier(level, keys), QueryModel.STUDY_ROOT, RELATIONAL)
    assert identities(world, query) == expected(world.rows[level], keys)


@pytest.mark.long
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=asked())
def test_patients_are_found_as_by_a_plain_reading(world: World, keys: dict[str, str]) -> None:
    keywords = list(world.rows[Level.PATIENT][0].values)
    query = read_query(identifier(Level.PATIENT, keys), QueryModel.PATIENT_ROOT, RELATIONAL)
    query = replace(query, returned=tuple(keywords))  # a Patient ID is not unique here: compared by all that is known
    found = Counter(tuple(text_of(one[keyword].value) for keyword in keywords) for one in answered(world.index, query))
    wanted = expected(world.rows[Level.PATIENT], keys)
    rows = [row for row in world.rows[Level.PATIENT] if row.id in wanted]
    assert found == Counter(tuple(row.values[keyword] or "" for keyword in keywords) for row in rows)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dates=st.lists(st.sampled_from(DATES[:-1]), min_size=2, max_size=2).map(sorted),
    times=st.tuples(*[st.sampled_from(["00", "1015", "101530", "101530.5", "2359"])] * 2),
    form=st.sampled_from(["{}-{}", "{}-", "-{1}"]),
)
def test_a_joined_date_and_time_is_one_moment(
    world: World, dates: list[str], times: tuple[str, str], form: str
) -> None:
    first, last = dates[0] + moment(times[0], False), dates[1] + moment(times[1], True)
    if form == "{}-{}":
        assume(first <= last)
    ds = identifier(Level.STUDY, {"StudyDate": form.format(*dates), "StudyTime": form.format(*times)})
    query = read_query(ds, options=Options(relational=True, combined_datetime=True))
    dated = {
        row.id: row.values["StudyDate"] + moment(row.values["StudyTime"] or "~", False)
        for row in world.rows[Level.STUDY]
        if row.values["StudyDate"] and (row.values["StudyTime"] or inner(row.values["StudyDate"], form, dates))
    }
    if form == "{}-":
        wanted = {each for each, at in dated.items() if at >= first}
    elif form == "-{1}":
        wanted = {each for each, at in dated.items() if at <= last}
    else:
        wanted = {each for each, at in dated.items() if first <= at <= last}
    assert identities(world, query) == wanted


def inner(date: str, form: str, dates: list[str]) -> bool:
    """Whether a date is far enough from the ends of a range that the time does not matter."""
    return (form == "-{1}" or date > dates[0]) and (form == "{}-" or date < dates[1])


@pytest.mark.parametrize("words", ["jane", "ja do", "DOE, Jane", "tarou", "müll jörg", "山", "nobody"])
def test_names_are_found_by_the_beginnings_of_their_words(world: World, words: str) -> None:
    query = read_query(identifier(Level.STUDY, {"PatientName": words}), options=Options(fuzzy=True))
    wanted = [plain_name(word) for word in words.replace(",", " ").split()]
    expected_ids = {
        row.id
        for row in world.rows[Level.STUDY]
        if row.parent is not None
        for known in [row.parent.values, *row.parent.aliases]
        for group in (known["PatientName"] or "").split("=")
        if all(any(part.startswith(word) for part in re.split(r"[\s^]", plain_name(group))) for word in wanted)
    }
    assert identities(world, query) == expected_ids
    assert bool(expected_ids) == (words != "nobody")


def test_pages_hold_every_study_once_the_newest_first(world: World) -> None:
    def page(limit: int | None, offset: int) -> list[Dataset]:
        ds = identifier(Level.STUDY, {})
        ds.StudyDate = None
        return answered(world.index, read_query(ds, limit=limit, offset=offset))

    whole = [one.StudyInstanceUID for one in page(None, 0)]
    assert len(whole) == len(world.rows[Level.STUDY])
    paged = [one for offset in range(0, len(whole) + 5, 5) for one in page(5, offset)]
    assert [one.StudyInstanceUID for one in paged] == whole
    dates = [one.StudyDate or "" for one in paged]
    assert dates == sorted(dates, reverse=True)  # those without one last


def test_counts_and_collections_are_those_of_the_rows(world: World) -> None:
    ds = identifier(Level.IMAGE, {})
    counted = [keyword for level in SUPPORTED.values() for keyword in level if keyword.startswith("NumberOf")]
    for keyword in (*counted, "ModalitiesInStudy", "SOPClassesInStudy", "InstanceAvailability"):
        setattr(ds, keyword, None)
    images = {row.values["SOPInstanceUID"]: row for row in world.rows[Level.IMAGE]}
    answers = answered(world.index, read_query(ds, QueryModel.PATIENT_ROOT, RELATIONAL))
    assert len(answers) == len(images)
    for answer in answers:
        series = images[answer.SOPInstanceUID].parent
        study = series.parent
        patient = study.parent
        assert answer.NumberOfSeriesRelatedInstances == len(series.children)
        assert answer.NumberOfStudyRelatedSeries == len(study.children)
        assert answer.NumberOfStudyRelatedInstances == len(below(study.children))
        assert answer.NumberOfPatientRelatedStudies == len(patient.children)
        assert answer.NumberOfPatientRelatedSeries == len(below(patient.children))
        assert answer.NumberOfPatientRelatedInstances == len(below(below(patient.children)))
        assert several(answer.ModalitiesInStudy) == {one.values["Modality"] for one in study.children} - {None}
        assert several(answer.SOPClassesInStudy) == {one.values["SOPClassUID"] for one in below(study.children)}
        assert answer.InstanceAvailability == "ONLINE"


def text_of(value: Any) -> str:
    return "\\".join(value) if isinstance(value, MultiValue) else str(value or "")


def several(value: Any) -> set[str]:
    return set() if not value else {value} if isinstance(value, str) else set(value)


def test_a_series_is_available_until_its_last_file_is_gone(open_root: Callable[[], Any]) -> None:
    root = open_root()
    study_uid, series_uid = generate_uid(), generate_uid()
    root.take_all([make.instance(study_uid=study_uid, series_uid=series_uid, InstanceNumber=n) for n in (1, 2)])

    def availability(level: Level) -> list[str]:
        ds = identifier(level, {"StudyInstanceUID": study_uid})
        ds.InstanceAvailability = None
        return [one.InstanceAvailability for one in answered(root.index, read_query(ds, options=RELATIONAL))]

    keys = [row["path"].removeprefix(f"{root.folder}/") for row in rows_of(root.index, "SELECT path FROM v_images")]
    root.index.instances.mark_files(keys[:1], missing=True, now=root.clock())
    assert availability(Level.IMAGE) == ["UNAVAILABLE", "ONLINE"]
    assert availability(Level.SERIES) == availability(Level.STUDY) == ["ONLINE"]
    root.index.instances.mark_files(keys[1:], missing=True, now=root.clock())
    assert availability(Level.IMAGE) == ["UNAVAILABLE", "UNAVAILABLE"]
    assert availability(Level.SERIES) == availability(Level.STUDY) == ["UNAVAILABLE"]


def rows_of(index: Index, query: str) -> list[dict[str, Any]]:
    return view_rows(index.root, query)


def test_what_is_stored_is_found_by_any_writing_of_the_name(open_root: Callable[[], Any]) -> None:
    root = open_root()
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    root.take(make.instance(PatientName=name, ReferringPhysicianName="Ärzte^Æ", SpecificCharacterSet="ISO_IR 192"))

    def is_found(**keys: str) -> bool:
        return len(list(root.index.find(read_query(identifier(Level.STUDY, keys))))) == 1

    for pattern in (
        "yamada^tarou",
        "YAMADA*",
        "山田*",
        "やまだ^?ろう",
        name,
        "=山田^太郎",
        "Y*=*=や*",
        "yamada^tarou^^",
    ):
        assert is_found(PatientName=pattern), pattern
    for pattern in ("yamada", "=Yamada*", "か*", "yamada*=か*"):
        assert not is_found(PatientName=pattern), pattern
    assert is_found(ReferringPhysicianName="arzte*")


@pytest.mark.parametrize("found", [True, False])
def test_patterns_of_many_wild_cards_take_no_time(world: World, found: bool) -> None:
    began = now()
    pattern = "*a" * 30 + ("*" if found else "*b*")
    query = read_query(identifier(Level.STUDY, {"PatientName": pattern, "ReferringPhysicianName": pattern}))
    assert isinstance(list(world.index.find(query)), list)
    assert idle_seconds(began, 1.0) < 1.0


# How queries are kept from being in the way


MAX_SHARE = 0.4
"""Of a processor, for a thread that does nothing but ask: a fifth if all of that is Python, half if all is SQLite."""


def every_image() -> Query:
    return read_query(identifier(Level.IMAGE, {}), options=RELATIONAL)


def test_more_answers_than_allowed_are_none(world: World) -> None:
    count = len(world.rows[Level.IMAGE])
    assert len(list(world.index.find(every_image(), maximum=count))) == count
    with pytest.raises(QueryRefused, match="narrow the query"):
        list(world.index.find(every_image(), maximum=count - 1))
    assert len(list(world.index.find(replace(every_image(), limit=3), maximum=3))) == 3


@pytest.mark.sqlite("counts steps of its virtual machine; test_postgresql stops a query of the server")
def test_a_query_that_nobody_waits_for_is_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.rows.sqlite.STEPS", 10)
    asked_often = iter([False] * 3)
    with pytest.raises(QueryStopped):
        list(world.index.find(every_image(), stop=lambda: next(asked_often, True)))
    assert next(asked_often, None) is None


@pytest.mark.sqlite("counts steps of its virtual machine; test_postgresql refuses a query of the server")
def test_a_query_that_takes_too_long_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.rows.sqlite.STEPS", 10)
    monkeypatch.setattr("node.index.look.finder.MAX_RUN_SECONDS", 0.0)
    with pytest.raises(QueryRefused, match="not found within"):
        list(world.index.find(every_image()))
    monkeypatch.undo()
    assert len(list(world.index.find(every_image()))) == len(world.rows[Level.IMAGE])  # on the same connection


def test_a_reader_of_answers_that_stops_to_read_keeps_nobody_waiting(world: World) -> None:
    slow = [world.index.find(every_image()) for _ in range(5)]
    assert all(next(answers) for answers in slow)
    assert len(list(world.index.find(every_image()))) == len(world.rows[Level.IMAGE])


@pytest.mark.sqlite("holds queries at steps of its virtual machine")
def test_queries_wait_for_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.look.finder.MAX_WAIT_SECONDS", 0.05)
    monkeypatch.setattr("node.index.rows.sqlite.STEPS", 10)
    held, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> bool:
        held.release()
        go_on.wait(10)
        return False

    threads = [
        threading.Thread(target=lambda: list(world.index.find(every_image(), stop=hold))) for _ in range(MAX_RUNNING)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert held.acquire(timeout=10)
    with pytest.raises(QueryRefused, match="too many queries at once"):
        list(world.index.find(every_image()))
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(list(world.index.find(every_image()))) == len(world.rows[Level.IMAGE])


def test_a_search_is_refused_at_once_when_many_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.index._finder, "_turns", Turns(1, 0, lambda: QueryRefused("too many")))
    with world.index.searching():
        began = now()
        with pytest.raises(QueryRefused, match="too many"), world.index.searching():
            pass
        assert idle_seconds(began, 1) < 1
    with world.index.searching() as index:
        assert index.studies.listed(StudyFilter(), limit=1)


def query_of_a_peer(index: Index) -> None:
    assert len(list(index.find(every_image()))) >= 20


def search_of_a_page(index: Index) -> None:
    with index.searching() as view:
        assert view.studies.listed(StudyFilter())


@pytest.mark.slow
@pytest.mark.parametrize("ask", [query_of_a_peer, search_of_a_page])
def test_queries_give_way_while_instances_arrive(open_root: Callable[[], Any], ask: Callable[[Index], None]) -> None:
    root = open_root()
    root.take_all(make.instance(StudyID=str(number)) for number in range(21))
    began_at, worked = time.monotonic(), time.thread_time()
    while time.monotonic() - began_at < 0.3:
        ask(root.index)
    assert (time.thread_time() - worked) / (time.monotonic() - began_at) < MAX_SHARE


@pytest.mark.sqlite("queries of a server take no time of this processor")
def test_queries_pause_longer_for_python_than_for_sqlite(world: World) -> None:
    with world.index.searching() as index:
        driver = index.connection.connection.dbapi_connection
        before, began_at = driver.seconds, time.thread_time()
        driver.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
                       "SELECT max(i) FROM n").fetchall()  # fmt: skip
        in_sqlite = driver.seconds - before
        assert 0.5 < in_sqlite / (time.thread_time() - began_at) <= 1
        assert sum(range(200_000))
        assert driver.seconds - before == in_sqlite
    assert pause_seconds(0.1, 0.0) >= 3 * pause_seconds(0.0, 0.1) > 0


def test_rows_that_are_read_in_one_step_are_what_was_stored(world: World) -> None:
    texts = ["", "a\0b", '"\\/', "\n\x1f\x7f", "山\U0010ffff", "é", None]
    echo = PreparedRows(select(*(bindparam(f"n{number}", type_=String) for number in range(len(texts)))))
    with world.index.searching() as index:
        rows = echo.read(index.connection, **{f"n{number}": text for number, text in enumerate(texts)})
    assert rows == [[text and text.replace("\0", "\ufffd") for text in texts] if IN_POSTGRESQL else texts]

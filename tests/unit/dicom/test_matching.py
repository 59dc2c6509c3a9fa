"""What the keys of an identifier mean."""

import datetime as dt
from typing import Any

import pytest
from pydicom import DataElement, Dataset, config
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.dicom.key_values import Between, Like, Match, Moments, NameLike, NameWords, OneOf
from node.dicom.keys import KEYS, SUPPORTED, UNIQUE_KEYS, IdentifierMismatch, InvalidQuery, Level, QueryModel
from node.dicom.matching import Condition, Options, Query, read_query
from tests import make

RELATIONAL = Options(relational=True)


def identifier(level: str = "STUDY", **keys: Any) -> Dataset:
    ds = make.dataset(QueryRetrieveLevel=level)
    for keyword, value in keys.items():
        vr = "PN" if keyword.endswith("Name") else "LO"  # which takes every text, as the bytes of a peer may be any
        ds.add(DataElement(keyword, vr, value, validation_mode=config.IGNORE))
    return ds


def matches(keyword: str, value: Any, options: Options = RELATIONAL) -> tuple[Match, ...]:
    """What one key means; empty: it matches everything."""
    query = read_query(identifier("IMAGE", **{keyword: value}), options=options)
    assert len(query.conditions) <= 1
    return query.conditions[0].matches if query.conditions else ()


@pytest.mark.parametrize("value", [None, "", "*", "***", [], ["", ""], ["A", "*"]])
def test_an_empty_key_and_a_lone_star_match_everything(value: Any) -> None:
    for keyword in ("PatientID", "PatientName", "Modality", "AccessionNumber"):
        assert matches(keyword, value) == ()


@pytest.mark.parametrize(
    ("keyword", "value", "meant"),
    [
        ("PatientID", "A1 ", (OneOf(("A1",)),)),
        ("PatientID", "A%_[", (OneOf(("A%_[",)),)),
        ("PatientID", "A**1?", (Like("A*1?"),)),
        ("Modality", ["CT", "M*"], (OneOf(("CT",)), Like("M*"))),
        ("StudyInstanceUID", ["1.2", "1.3"], (OneOf(("1.2", "1.3")),)),
        ("SeriesNumber", "7", (OneOf((7,)),)),
        ("Rows", 512, (OneOf((512,)),)),
        ("PatientName", "Dœ^J*", (NameLike(("dœ^j*",)),)),
        ("PatientName", "=山田^*", (NameLike(("", "山田^*", "")),)),
        ("PatientName", "*=*", ()),
        ("StudyDate", "20240131", (Between(dt.date(2024, 1, 31), dt.date(2024, 1, 31), True),)),
        ("StudyDate", "2024.01.31", (Between(dt.date(2024, 1, 31), dt.date(2024, 1, 31), True),)),
        ("StudyDate", "20240131-", (Between(dt.date(2024, 1, 31), None),)),
        ("StudyDate", "-20240131", (Between(None, dt.date(2024, 1, 31)),)),
        ("StudyDate", "20240101 - 20240131", (Between(dt.date(2024, 1, 1), dt.date(2024, 1, 31)),)),
        ("StudyTime", "10", (Between(dt.time(10), dt.time(10, 59, 59, 999999), True),)),
        ("StudyTime", "1015", (Between(dt.time(10, 15), dt.time(10, 15, 59, 999999), True),)),
        ("StudyTime", "10:15:30", (Between(dt.time(10, 15, 30), dt.time(10, 15, 30, 999999), True),)),
        ("StudyTime", "101530.25", (Between(dt.time(10, 15, 30, 250000), dt.time(10, 15, 30, 259999), True),)),
        ("StudyTime", "10-1130", (Between(dt.time(10), dt.time(11, 30, 59, 999999)),)),
        ("StudyTime", "-00", (Between(None, dt.time(0, 59, 59, 999999)),)),
    ],
)
def test_a_key_means_what_the_standard_says(keyword: str, value: Any, meant: tuple[Match, ...]) -> None:
    assert matches(keyword, value) == meant


@pytest.mark.parametrize(
    ("keyword", "value", "rule"),
    [
        ("StudyInstanceUID", "1.2.*", "does not allow wild cards"),
        ("PatientAge", "04?Y", "does not allow wild cards"),
        ("FrameIncrementPointer", "0018*", "does not allow wild cards"),
        ("SeriesNumber", "one", "whole number"),
        ("SeriesNumber", "1*", "whole number"),
        ("StudyDate", "2024", "a date YYYYMMDD"),
        ("StudyDate", "2024*", "a date YYYYMMDD"),
        ("StudyDate", "-", "a date YYYYMMDD"),
        ("StudyDate", "20240101-20240102-20240103", "a date YYYYMMDD"),
        ("StudyDate", "20240231", "day does not exist"),
        ("StudyDate", "20240201-20240101", "first date of a range must not be after"),
        ("StudyTime", "1", "a time HHMMSS"),
        ("StudyTime", "2500", "time of day does not exist"),
        ("StudyTime", "2300-0100", "must not cross midnight"),
        ("PatientName", "a=b=c=d", "at most 3 component groups"),
        ("PatientID", "x" * 1025, "longer than 1024"),
    ],
)
def test_a_key_that_cannot_be_understood_is_refused(keyword: str, value: Any, rule: str) -> None:
    with pytest.raises(InvalidQuery, match=rule) as refused:
        matches(keyword, value)
    assert refused.value.tag == Tag(keyword)
    assert not isinstance(refused.value, IdentifierMismatch)
    assert str(value) not in str(refused.value) or value == "-"


def test_a_number_that_was_sent_is_read_as_it_came() -> None:
    def sent(raw: bytes) -> Dataset:
        ds = identifier("SERIES")
        tag = Tag("SeriesNumber")
        ds._dict[tag] = RawDataElement(tag, "IS", len(raw), raw, 0, False, True)
        return ds

    assert read_query(sent(b"* "), options=RELATIONAL).conditions == ()
    assert read_query(sent(b"007\\8 "), options=RELATIONAL).conditions[0].matches == (OneOf((7, 8)),)
    for broken in (b"x ", b"\xff "):
        with pytest.raises(InvalidQuery):
            read_query(sent(broken), options=RELATIONAL)


def test_text_is_read_by_its_character_set() -> None:
    ds = identifier()
    tag = Tag("StudyDescription")
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.set_original_encoding(False, True, "iso8859")
    ds._dict[tag] = RawDataElement(tag, "LO", 4, "Köpf".encode("latin-1"), 0, False, True)
    assert read_query(ds).conditions[0].matches == (OneOf(("Köpf",)),)


@pytest.mark.parametrize("level", [None, "", "WORLD", "study", ["STUDY", "SERIES"]])
def test_a_level_that_is_none_is_refused(level: Any) -> None:
    ds = Dataset()
    if level is not None:
        ds.add(DataElement("QueryRetrieveLevel", "CS", level, validation_mode=config.IGNORE))
    with pytest.raises(IdentifierMismatch, match="must be one of STUDY, SERIES, IMAGE") as refused:
        read_query(ds)
    assert refused.value.tag == 0x00080052


@pytest.mark.parametrize(
    ("model", "level", "keys", "missing"),
    [
        (QueryModel.STUDY_ROOT, "STUDY", {}, None),
        (QueryModel.STUDY_ROOT, "SERIES", {"StudyInstanceUID": "1.2"}, None),
        (QueryModel.STUDY_ROOT, "SERIES", {"StudyInstanceUID": ""}, "StudyInstanceUID"),
        (QueryModel.STUDY_ROOT, "SERIES", {"StudyInstanceUID": ["1.2", "1.3"]}, "StudyInstanceUID"),
        (QueryModel.STUDY_ROOT, "IMAGE", {"StudyInstanceUID": "1.2"}, "SeriesInstanceUID"),
        (QueryModel.PATIENT_ROOT, "PATIENT", {}, None),
        (QueryModel.PATIENT_ROOT, "STUDY", {"PatientName": "X"}, "PatientID"),
        (QueryModel.PATIENT_ROOT, "STUDY", {"PatientID": "A*"}, "PatientID"),
        (QueryModel.PATIENT_ROOT, "SERIES", {"PatientID": "A", "StudyInstanceUID": "1.2"}, None),
    ],
)
def test_a_hierarchical_query_names_one_entity_of_each_level_above(
    model: QueryModel, level: str, keys: dict[str, Any], missing: str | None
) -> None:
    ds = identifier(level, **keys)
    if missing is None:
        assert read_query(ds, model).level == Level[level]
    else:
        with pytest.raises(IdentifierMismatch, match="single value") as refused:
            read_query(ds, model)
        assert refused.value.tag == Tag(missing)
    assert read_query(ds, model, RELATIONAL).level == Level[level]


def test_the_unique_keys_are_answered_asked_for_or_not() -> None:
    keys = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}
    assert read_query(identifier("IMAGE", **keys)).returned == (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
    )
    patient_root = read_query(identifier("STUDY", PatientID="A", PatientName=None), QueryModel.PATIENT_ROOT)
    assert patient_root.returned == ("PatientID", "StudyInstanceUID", "PatientName")


def test_what_is_not_supported_is_reported_and_not_looked_for() -> None:
    ds = identifier("STUDY", InstitutionName="X", SeriesDescription="Y", NumberOfStudyRelatedSeries=2)
    ds.RequestAttributesSequence = [Dataset()]
    ds.add_new(0x00091001, "LO", "private")
    query = read_query(ds)
    assert query.conditions == ()
    assert [key.name for key in query.documents] == ["InstitutionName"]
    assert set(query.unsupported) == {
        "SeriesDescription", "RequestAttributesSequence", "(0009,1001)",
        "NumberOfStudyRelatedSeries",  # answered, but not looked for
    }  # fmt: skip
    assert query.returned == ("StudyInstanceUID", "NumberOfStudyRelatedSeries")
    relational = read_query(ds, options=RELATIONAL)
    assert [one.key.keyword for one in relational.conditions] == ["SeriesDescription"]
    assert "SeriesDescription" not in relational.returned


def test_an_offset_from_utc_is_a_key_of_qido_and_in_c_find_says_how_times_are_meant() -> None:
    ds = identifier("STUDY", TimezoneOffsetFromUTC="+0100")
    asked = read_query(ds)
    assert (asked.conditions, asked.unsupported) == ((), ())
    assert "TimezoneOffsetFromUTC" in asked.returned
    [condition] = read_query(ds, options=Options(timezone=True)).conditions
    assert condition.matches == (OneOf(("+0100",)),)
    patient_root = read_query(identifier("PATIENT", TimezoneOffsetFromUTC=None), QueryModel.PATIENT_ROOT)
    assert patient_root.unsupported == ("TimezoneOffsetFromUTC",)


def request(**keys: str | None) -> Dataset:
    ds = identifier("SERIES", StudyInstanceUID="1.2")
    ds.RequestAttributesSequence = [make.dataset(**keys)]
    return ds


def test_the_item_of_a_sequence_has_keys_of_its_own() -> None:
    query = read_query(request(ScheduledProcedureStepID="S*", RequestedProcedureID=None))
    [condition] = [one for one in query.conditions if one.key.keyword == "RequestAttributesSequence"]
    [in_item] = condition.matches
    assert [(key.keyword, matches) for key, matches in in_item.keys] == [("ScheduledProcedureStepID", (Like("S*"),))]
    assert query.items == {"RequestAttributesSequence": ("ScheduledProcedureStepID", "RequestedProcedureID")}
    [other] = read_query(request(ScheduledProcedureStepID="S*", CodeValue="X")).documents  # no column has both
    wanted = {"CodeValue": ("X",), "ScheduledProcedureStepID": ("S*",), "RequestedProcedureID": ()}
    assert all(wanted[key.name] == key.texts for key in other.items)


def test_an_empty_item_asks_for_all_and_several_are_refused() -> None:
    ds = request()
    assert read_query(ds).items["RequestAttributesSequence"] == ("ScheduledProcedureStepID", "RequestedProcedureID")
    ds.RequestAttributesSequence = [Dataset(), Dataset()]
    with pytest.raises(InvalidQuery, match="one item") as refused:
        read_query(ds)
    assert refused.value.tag == 0x00400275


def test_alternatives_in_an_item_count_as_matches() -> None:
    with pytest.raises(InvalidQuery, match="more than 100 values"):
        read_query(request(ScheduledProcedureStepID="\\".join(f"*{number}" for number in range(101))))


def test_names_are_looked_for_word_by_word_when_that_is_agreed_on() -> None:
    fuzzy = Options(relational=True, fuzzy=True)
    assert matches("PatientName", "Doe, John", fuzzy) == (NameWords(("doe", "john")),)
    assert matches("PatientName", "MÜL*^j", fuzzy) == (NameWords(("mul", "j")),)
    assert matches("PatientName", "^?*", fuzzy) == ()


def both(date: str, time: str) -> Query:
    options = Options(relational=True, combined_datetime=True)
    return read_query(identifier("STUDY", StudyDate=date, StudyTime=time), options=options)


def test_a_date_and_a_time_are_joined_when_both_are_ranges_of_one_form() -> None:
    noon, late = dt.time(12), dt.time(9, 59, 59, 999999)
    first, last = dt.date(2024, 1, 1), dt.date(2024, 1, 3)
    key, time = KEYS["StudyDate"], KEYS["StudyTime"]

    def joined(*ends: tuple[dt.date, dt.time] | None) -> tuple[Condition, ...]:
        return (Condition(key, (Moments(time, *ends),)),)

    assert both("20240101-20240103", "12-09").conditions == joined((first, noon), (last, late))
    assert both("20240101-", "12-").conditions == joined((first, noon), None)
    assert both("-20240103", "-09").conditions == joined(None, (last, late))


@pytest.mark.parametrize(("date", "time"), [("20240101", "09-12"), ("20240101-", "-12"), ("20240101-20240103", "1015")])
def test_a_date_and_a_time_of_other_forms_stay_apart(date: str, time: str) -> None:
    assert {one.key.keyword for one in both(date, time).conditions} == {"StudyDate", "StudyTime"}


def test_a_joined_range_begins_with_its_earlier_moment() -> None:
    with pytest.raises(InvalidQuery, match="first moment of a range must not be after"):
        both("20240103-20240101", "09-12")


def test_every_level_supports_its_unique_key_and_the_required_ones() -> None:
    for level, keyword in UNIQUE_KEYS.items():
        assert keyword in SUPPORTED[level]
    # PS3.4 tables C.6-1 to C.6-4: required keys
    assert {"PatientName", "PatientID"} <= set(SUPPORTED[Level.PATIENT])
    assert {"StudyDate", "StudyTime", "AccessionNumber", "StudyID"} <= set(SUPPORTED[Level.STUDY])
    assert {"Modality", "SeriesNumber"} <= set(SUPPORTED[Level.SERIES])
    assert {"InstanceNumber"} <= set(SUPPORTED[Level.IMAGE])

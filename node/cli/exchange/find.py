"""``voxelnode find``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from node.cli.options import ConfigFile, Json, load
from node.cli.output import print_json, print_table, printable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RETURNED = {
    "patient": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "study": (
        "StudyDate",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    "series": (
        "SeriesNumber",
        "Modality",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
    "image": ("InstanceNumber", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
"""Attributes returned at each level, in addition to the given keys."""


def find(
    source: Annotated[str, typer.Option("--from", metavar="PEER", help="A name in [peers], or AET@HOST:PORT.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Such as PatientName=DOE* StudyDate=20240101- Modality="),
    ] = None,
    level: Annotated[
        Literal["patient", "study", "series", "image"], typer.Option("--level", help="Query level.")
    ] = "study",
    config: ConfigFile = None,
    calling_aet: Annotated[
        str | None, typer.Option("--calling-aet", metavar="AET", help="Calling AE title. [default: [dicom] ae_title]")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Cancel the query after N answers.")] = 500,
    json: Json = False,
) -> None:
    """Query another node (C-FIND).

    KEY is a keyword of PS3.6. A key with an empty value matches everything, and its value is returned.
    """
    settings = load(config).settings

    from node.association.addresses import address_of
    from node.association.client.find import find as ask
    from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND

    peer = address_of(source, settings)
    query = _query(keys or [], level)
    model = PATIENT_ROOT_FIND if level == "patient" else STUDY_ROOT_FIND
    calling = calling_aet or settings.dicom.ae_title
    answers = list(ask(query, peer, calling, settings.dicom.response_seconds, limit, model))
    if json:
        print_json([answer.to_json_dict() for answer in answers])
        return
    columns = [keyword for keyword in _keywords(query) if any(_shown(answer, keyword) for answer in answers)]
    print_table(
        f"{len(answers)} answers from {peer}",
        columns,
        [[_shown(answer, keyword) for keyword in columns] for answer in answers],
    )


def _query(keys: list[str], level: str) -> Dataset:
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset

    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level.upper()
    for keyword in RETURNED[level]:
        setattr(query, keyword, None)
    for key in keys:
        keyword, equals, value = key.partition("=")
        if not equals or tag_for_keyword(keyword) is None:
            raise typer.BadParameter(f"{key!r} is not KEY=VALUE with a keyword of PS3.6, such as PatientID=4711.")
        try:
            setattr(query, keyword, value or None)
        except (ValueError, TypeError) as error:
            raise typer.BadParameter(f"{keyword} cannot have the value {value!r}: {error}") from error
    return query


def _keywords(query: Dataset) -> list[str]:
    hidden = ("SpecificCharacterSet", "QueryRetrieveLevel")
    return [element.keyword for element in query if element.keyword and element.keyword not in hidden]


def _shown(answer: Dataset, keyword: str) -> str:
    value: Any = answer.get(keyword)
    if value is None:
        return ""
    values = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
    return printable(", ".join(map(str, values)))

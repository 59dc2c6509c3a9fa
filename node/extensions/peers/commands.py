"""``voxelnode peers find`` and ``get``: searches at other nodes, and retrievals from them."""

from __future__ import annotations

import getpass
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from node.cli.options import PEER, CallingAet, ChangedRoot, Configured, Root
from node.cli.output import Answer, Listing, listing, print_fields, printable
from node.errors import counted

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FromPeer = Annotated[str, typer.Option("--from", help="A name in [peers], or AET@HOST:PORT.", **PEER)]

RETURNED = {
    "patient": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "study": (
        *("StudyDate", "PatientID", "PatientName", "AccessionNumber", "ModalitiesInStudy", "StudyDescription"),
        *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "StudyInstanceUID"),
    ),
    "series": (
        *("SeriesNumber", "Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances"),
        *("StudyInstanceUID", "SeriesInstanceUID"),
    ),
    "image": ("InstanceNumber", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
"""Attributes returned at each level, in addition to the given keys."""

LOOK_SECONDS = 0.2
"""Interval at which the command looks how far a retrieval is."""

SERVED_LOOKS = 25
"""Looks after which it also looks whether the node is still there."""


def find(
    source: FromPeer,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Such as PatientName=DOE* StudyDate=20240101- Modality="),
    ] = None,
    level: Annotated[
        Literal["patient", "study", "series", "image"], typer.Option("--level", help="Query level.")
    ] = "study",
    *,
    configured: Configured,
    calling_aet: CallingAet = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Cancel the query after N answers.")] = 500,
) -> Listing:
    """Query another node (C-FIND).

    KEY is a keyword of PS3.6. A key with an empty value matches everything, and its value is returned.
    """
    settings = configured.settings

    from node.association.client.addresses import address_of
    from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
    from node.extensions.peers.find import find as ask

    peer = address_of(source, settings)
    query = _query(keys or [], level)
    model = PATIENT_ROOT_FIND if level == "patient" else STUDY_ROOT_FIND
    calling = calling_aet or settings.dicom.ae_title
    answers = list(ask(query, peer, calling, settings.dicom.response_seconds, limit + 1, model))
    cut = f"the first {limit} answers from {peer}, which has more" if len(answers) > limit else ""
    answers = answers[:limit]
    keywords = [keyword for keyword in _keywords(query) if any(_shown(keyword, answer) for answer in answers)]
    rows = [{keyword: _shown(keyword, answer) for keyword in keywords} for answer in answers]
    data = [answer.to_json_dict() for answer in answers]
    title = cut or f"{counted(len(answers), 'answer')} from {peer}"
    return replace(listing(title, {keyword: keyword for keyword in keywords}, rows, data=data), left_out=cut)


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


def _shown(keyword: str, answer: Dataset) -> str:
    value: Any = answer.get(keyword)
    if value is None:
        return ""
    values = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
    return printable(", ".join(map(str, values)))


def get(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    source: FromPeer,
    series: Annotated[
        str | None, typer.Option("--series", metavar="UID", help="Only this series of the study. [default: all series]")
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """Retrieve a study from another node into the archive (C-GET).

    If a node runs on this root, the node does it, as a retrieval that the page Peers shows; interrupting the command
    cancels it. Exit 1 if an instance failed.
    """
    settings = root.settings

    from node.association.client.addresses import address_of
    from node.control.repository import Repository
    from node.control.root import hold_or_request, require_created
    from node.extensions.peers.find import RetrieveTarget
    from node.extensions.peers.find import get as get_into

    peer = address_of(source, settings)  # reports a mistake here rather than from the node
    require_created(settings)
    request = {"peer": source, "wanted": [[study, series]], "who": getpass.getuser()}
    held = hold_or_request(root.folder, lambda: Repository(settings), "retrieve", request)
    if isinstance(held, Repository):
        with held as repository:
            counts = asdict(get_into(RetrieveTarget(study, series or ""), peer, settings.dicom, repository.ingest))
    else:
        counts = _watched(root, held["retrievals"][0])
    shown = {"instances": counts["completed"], "with a warning": counts["warning"], "failed": counts["failed"]}
    return Answer(counts, partial(print_fields, shown), failed=bool(counts["failed"]))


def _watched(root: Root, retrieval: str) -> dict[str, Any]:
    """Wait for a retrieval of the node, and return its counts; cancel it if the command is interrupted."""
    from node.control.control_socket import NotPerformed, is_served, request_action

    row = _row(root, retrieval)
    try:
        for look in count(1):
            row = _row(root, retrieval)
            if row["state"] not in ("waiting", "running"):
                break
            if look % SERVED_LOOKS == 0 and not is_served(root.folder):
                raise NotPerformed(f"the node ended: its next start continues with retrieval {retrieval}")
            sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        with suppress(NotPerformed):  # it has ended
            request_action(root.folder, "cancel-work", {"work": row["id"], "who": getpass.getuser()})
        raise
    failed = row["refused"] + row["failed"]
    if row["state"] in ("failed", "cancelled") or (row["state"] == "incomplete" and not failed):
        raise NotPerformed(row["reason"])
    left = max((row["announced"] or 0) - row["stored"] - failed, 0)
    return {"completed": row["stored"], "failed": failed, "warning": 0, "remaining": left}


def _row(root: Root, retrieval: str) -> dict[str, Any]:
    from node.control.control_socket import NotPerformed

    with root.reading() as index:
        rows = index.work.page(None, 1, kind="retrieval", key=retrieval)
    if not rows:
        raise NotPerformed(f"retrieval {retrieval} was deleted with its study")
    return rows[0]

"""``voxelnode echo``, ``find``, ``get`` and ``send``: requests to other nodes."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from node.cli.options import CallingAet, ChangedRoot, Configured, FromPeer, Root
from node.cli.output import Answer, listing, print_fields, printable, progress_bar

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from node.association.client.send import Sent, Transcode
    from node.index.database.reading import ReadIndex
    from node.index.search.selection import Selected

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

LOOK_SECONDS = 0.2
"""Interval at which the command looks how far a retrieval is."""

SERVED_LOOKS = 25
"""Looks after which it also looks whether the node is still there."""

SHOWN_FAILURES = 20
"""Maximum number of unsent instances to list; ``--json`` lists all."""


def echo(
    peer: Annotated[
        str | None,
        typer.Argument(
            metavar="PEER",
            help="A name in [peers], or AET@HOST:PORT. [default: the node of this configuration]",
        ),
    ] = None,
    *,
    configured: Configured,
    calling_aet: CallingAet = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, max=600, help="Maximum wait.")] = 10,
) -> Answer:
    """Test the connection to a node (C-ECHO)."""
    settings = configured.settings

    from node.association.client.association import Address, address_of, verify
    from node.errors import VoxelnodeError

    if peer is None:
        address = Address(settings.dicom.ae_title, settings.dicom.host or "127.0.0.1", settings.dicom.port)
    else:
        address = address_of(peer, settings)
    answer = {"ae_title": address.ae_title, "host": address.host, "port": address.port}
    try:
        took = verify(address, calling_aet or settings.dicom.ae_title, timeout)
    except VoxelnodeError as error:
        return Answer({**answer, "ok": False, "error": str(error)}, error, failed=True)
    text = f"{address.ae_title} on {address.host}:{address.port} answers ({took * 1000:.0f} ms)"
    return Answer({**answer, "ok": True, "seconds": took}, text)


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
) -> Answer:
    """Query another node (C-FIND).

    KEY is a keyword of PS3.6. A key with an empty value matches everything, and its value is returned.
    """
    settings = configured.settings

    from node.association.client.association import address_of
    from node.association.client.find import find as ask
    from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND

    peer = address_of(source, settings)
    query = _query(keys or [], level)
    model = PATIENT_ROOT_FIND if level == "patient" else STUDY_ROOT_FIND
    calling = calling_aet or settings.dicom.ae_title
    answers = list(ask(query, peer, calling, settings.dicom.response_seconds, limit, model))
    keywords = [keyword for keyword in _keywords(query) if any(_shown(keyword, answer) for answer in answers)]
    columns = {keyword: partial(_shown, keyword) for keyword in keywords}
    data = [answer.to_json_dict() for answer in answers]
    return listing(f"{len(answers)} answers from {peer}", columns, answers, data=data)


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

    from node.association.client.association import address_of
    from node.control.repository import Repository
    from node.control.root import hold_or_request, require_created

    address_of(source, settings)  # reports a mistake here rather than from the node
    require_created(settings)
    request = {"peer": source, "wanted": [[study, series]], "who": getpass.getuser()}
    held = hold_or_request(root.folder, lambda: Repository(settings), "retrieve", request)
    if isinstance(held, Repository):
        with held as repository:
            counts = dict(repository.actions.get(study, series or "", source))
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


def send(
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="A name in [peers], or AET@HOST:PORT.")],
    uids: Annotated[
        list[str] | None, typer.Argument(metavar="UID", help="UIDs of stored studies, series or instances.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="All studies with this Patient ID.")
    ] = None,
    *,
    root: Root,
    calling_aet: CallingAet = None,
) -> Answer:
    """Send stored instances to another node (C-STORE).

    Instances are sent as stored, or uncompressed if the peer accepts nothing else. Exit 1 if an instance was not sent.
    """
    settings = root.settings
    if not uids and patient is None:
        raise typer.BadParameter("Give UIDs, or --patient ID.")

    from node.association.client import send as sending
    from node.association.client.association import address_of
    from node.association.client.send import outgoing_of

    peer = address_of(to, settings)
    with root.reading() as index:
        chosen = {one.sop_instance_uid: one for few in _selected(index, uids or [], patient) for one in few.instances}
    calling = calling_aet or settings.dicom.ae_title
    results: list[Sent] = []
    with (
        root.files() as local,
        progress_bar("sending", len(chosen)) as advance,
        _transcoder(root.folder / "incoming") as transcode,
    ):
        instances = outgoing_of(chosen.values(), root.folder, local)
        for sent in sending.send(instances, peer, calling, transcode, settings.dicom.response_seconds):
            results.append(sent)
            advance()
    return _answer(results)


def _selected(index: ReadIndex, uids: list[str], patient: str | None) -> Iterator[Selected]:
    """Yield the instances of each UID and of the Patient ID; each must match at least one instance."""
    from node.dicom.keys import Level, Selection
    from node.errors import UsageError

    for uid in uids:
        selections = (
            Selection(Level.STUDY, study_instance_uids=(uid,)),
            Selection(Level.SERIES, series_instance_uids=(uid,)),
            Selection(Level.IMAGE, sop_instance_uids=(uid,)),
        )
        selected = next((chosen for level in selections if (chosen := index.instances.selected(level)).instances), None)
        if selected is None:
            raise UsageError(
                f"{uid}: no stored study, series or instance has this UID; `voxelnode series` lists the series"
            )
        yield selected
    if patient is not None:
        selected = index.instances.selected(Selection(Level.PATIENT, patient_id=patient))
        if not selected.instances:
            raise UsageError("no stored study has this Patient ID")
        yield selected


@contextmanager
def _transcoder(folder: Path) -> Iterator[Transcode]:
    from node.association.client.send import Transcoder
    from node.children.decoder import Decoder

    decoder = Decoder()
    try:
        yield Transcoder(decoder, folder)
    finally:
        decoder.close()


def _why(sent: Sent) -> str:
    return printable(f"{sent.reason} {sent.comment}".rstrip())


def _answer(results: list[Sent]) -> Answer:
    from node.association.client.send import SendOutcome

    failed = [sent for sent in results if sent.fate is SendOutcome.FAILED]
    counts = {
        "sent": sum(sent.fate is SendOutcome.COMPLETED for sent in results),
        "sent with a warning": sum(sent.fate is SendOutcome.WARNING for sent in results),
        "not sent": len(failed),
    }
    failures = [{"sop_instance_uid": sent.instance.sop_instance_uid, "reason": _why(sent)} for sent in failed]

    def show() -> None:
        print_fields(counts)
        for failure in failures[:SHOWN_FAILURES]:
            print(f"not sent: {failure['sop_instance_uid']}: {failure['reason']}")
        if len(failed) > SHOWN_FAILURES:
            print(f"not sent: and {len(failed) - SHOWN_FAILURES} more (--json lists all)")

    data = {"sent": counts["sent"], "warnings": counts["sent with a warning"], "failed": failures}
    return Answer(data, show, failed=bool(failed))

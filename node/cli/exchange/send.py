"""``voxelnode send``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, archive_files, load
from node.cli.output import print_fields, print_json, printable

if TYPE_CHECKING:
    from node.association.client.send import Sent, Transcode
    from node.index.database.reading import ReadIndex
    from node.index.search.selection import Selected

SHOWN_FAILURES = 20
"""Maximum number of unsent instances to list; ``--json`` lists all."""


def send(
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="A name in [peers], or AET@HOST:PORT.")],
    uids: Annotated[
        list[str] | None, typer.Argument(metavar="UID", help="UIDs of stored studies, series or instances.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="All studies with this Patient ID.")
    ] = None,
    config: ConfigFile = None,
    root: Root = None,
    calling_aet: Annotated[
        str | None, typer.Option("--calling-aet", metavar="AET", help="Calling AE title. [default: [dicom] ae_title]")
    ] = None,
    json: Json = False,
) -> None:
    """Send stored instances to another node (C-STORE).

    Instances are sent as stored, or uncompressed if the peer accepts nothing else. Exit 1 if an instance was not sent.
    """
    settings = load(config, storage__root=root).settings
    if not uids and patient is None:
        raise typer.BadParameter("Give UIDs, or --patient ID.")
    folder = settings.storage.root.absolute()

    from node.association.addresses import address_of
    from node.association.client import send as sending
    from node.association.services.stored import outgoing_of
    from node.index.database.index import reading

    peer = address_of(to, settings)
    with reading(settings.storage.root, settings.index.url) as index:
        chosen = {one.sop_instance_uid: one for few in _selected(index, uids or [], patient) for one in few.instances}
    calling = calling_aet or settings.dicom.ae_title
    results: list[Sent] = []
    with (
        archive_files(settings) as local,
        _progress(len(chosen)) as advance,
        _transcoder(folder / "incoming") as transcode,
    ):
        instances = outgoing_of(chosen.values(), folder, local)
        for sent in sending.send(instances, peer, calling, transcode, settings.dicom.response_seconds):
            results.append(sent)
            advance()
    _print_results(results, json)


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
    from node.association.services.stored import Transcoder
    from node.children.decoder import Decoder

    decoder = Decoder()
    try:
        yield Transcoder(decoder, folder)
    finally:
        decoder.close()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal; yield the function that advances it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda: bar.advance(task)


def _why(sent: Sent) -> str:
    return printable(f"{sent.reason} {sent.comment}".rstrip())


def _print_results(results: list[Sent], json: bool) -> None:
    from node.association.client.send import SendOutcome

    failed = [sent for sent in results if sent.fate is SendOutcome.FAILED]
    counts = {
        "sent": sum(sent.fate is SendOutcome.COMPLETED for sent in results),
        "sent with a warning": sum(sent.fate is SendOutcome.WARNING for sent in results),
        "not sent": len(failed),
    }
    if json:
        failures = [{"sop_instance_uid": sent.instance.sop_instance_uid, "reason": _why(sent)} for sent in failed]
        print_json({"sent": counts["sent"], "warnings": counts["sent with a warning"], "failed": failures})
    else:
        print_fields(counts)
        for sent in failed[:SHOWN_FAILURES]:
            print(f"not sent: {sent.instance.sop_instance_uid}: {_why(sent)}")
        if len(failed) > SHOWN_FAILURES:
            print(f"not sent: and {len(failed) - SHOWN_FAILURES} more (--json lists all)")
    if failed:
        raise typer.Exit(1)

"""``voxelnode deidentify``, and ``voxelnode pseudonyms``: keys of pseudonyms, and the map that they make."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from node.cli.options import Commands, Configured, Json
from node.cli.output import Answer, named_files, print_json, printable
from node.errors import counted

if TYPE_CHECKING:
    from pydicom import Dataset

    from node.children.pseudonyms import PseudonymKey
    from node.dicom.coercion import Identity
    from node.settings.model import Settings

_UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_READ = ["SpecificCharacterSet", "PatientID", "IssuerOfPatientID", "AccessionNumber", *_UIDS.values()]

app = Commands(help="Manage keys of pseudonyms, and show whose pseudonym is whose.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="File of keys, which only its owner may read.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the key. [default: the time]")]


def deidentify(
    source: Annotated[
        Path, typer.Argument(metavar="IN", exists=True, help="A folder, a file, a zip file or a DICOMDIR.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the results; created if missing.")],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Key of the pseudonyms, made by `voxelnode pseudonyms new`. [default: a key that nobody keeps]",
        ),
    ] = None,
    retain: Annotated[
        list[str] | None,
        typer.Option(
            "--retain",
            metavar="WHAT",
            help="safe-private, uids, device, institution, patient, full-dates or modified-dates; several with commas.",
        ),
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            "--clean",
            metavar="WHAT",
            help="descriptors, structured, graphics or pixels, instead of removal or refusal; several with commas.",
        ),
    ] = None,
    pixel_rules: Annotated[
        Path | None,
        typer.Option(
            "--pixel-rules", metavar="FILE", help="TOML file of what devices burn into pixels; includes --clean pixels."
        ),
    ] = None,
    burned_in_text: Annotated[
        str,
        typer.Option(
            "--burned-in-text",
            metavar="WHAT",
            help="Look for text in pixels, by voxelnode[ocr]: off, refuse, or blank, which includes --clean pixels.",
        ),
    ] = "off",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="RISK",
            help="Pass it as it is: secondary-capture, ultrasound, photograph, burned-in, recognizable or voice.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write what texts and numbers stay, with counts, as CSV: read it before you pass OUT on.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="Key and options of [deidentify.NAME] in the configuration."),
    ] = None,
    *,
    configured: Configured,
    json: Json = False,
) -> Answer:
    """Remove identities from DICOM files, by PS3.15 Annex E.

    The originals stay as they are. What cannot be called clean is refused with the reason and not written; files that
    are not DICOM are not copied. Exit 1 if nothing was written.
    """
    from node.children.pseudonyms import passing_key, read_keys
    from node.control.audited_export import audited_export
    from node.errors import UsageError
    from node.extensions.deidentify.deidentification import (
        BurnedInText,
        Deidentification,
        allowed,
        burned_in_text_of,
        read_rules,
    )
    from node.extensions.deidentify.files import RefusedFile, deidentify_files
    from node.extensions.deidentify.profile import Profile, options
    from node.extensions.deidentify.remaining import Loss, Remaining, in_words, remedy
    from node.extensions.deidentify.ways import configured as configured_way
    from node.registry import require_extra
    from node.runtime import logs

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # removes what was unpacked
    logs.configure_command()  # pydicom logs values, which are patient data
    if profile is not None:
        if key or retain or clean or pixel_rules or allow or burned_in_text != BurnedInText.OFF:
            raise UsageError("--profile has key and options of its own; give either it or the others")
        how: Deidentification = configured_way(configured.settings, profile)
    else:
        text_in_pixels = burned_in_text_of(burned_in_text)
        if text_in_pixels is not BurnedInText.OFF:
            require_extra("--burned-in-text", "ocr")
        cleaned = _listed(clean) + (["pixels"] if pixel_rules or text_in_pixels is BurnedInText.BLANK else [])
        how = Deidentification(
            Profile(options(_listed(retain), cleaned)),
            read_keys(key)[0] if key else passing_key(),
            allowed(_listed(allow)),
            read_rules(pixel_rules) if pixel_rules else (),
            text_in_pixels,
        )

    def show(refused: RefusedFile) -> None:
        if not json:
            print(f"refused {printable(refused.name)}: {refused.reason}: {printable(refused.detail)}", flush=True)

    remaining = Remaining() if report is not None else None
    chosen = ", ".join(sorted(how.profile.options)) or "no options"
    order = f"voxelnode deidentify {source.absolute()} to {out.absolute()}, {how.mark}, {chosen}"
    with audited_export(configured.settings, order) as outcome:
        summary = deidentify_files([source], out, how, show, remaining)
        patients = counted(len(summary.patients), "patient")
        outcome.counts = f"{counted(summary.written, 'instance')} of {patients} written, {len(summary.refused)} refused"
    if report is not None and remaining is not None:
        report.write_bytes(remaining.as_csv())
    data = {
        "written": summary.written,
        "patients": sorted(summary.patients),
        "key": how.key.name,
        "refused": [{"name": each.name, "reason": each.reason, "detail": each.detail} for each in summary.refused],
        "skipped": [{"name": each.name, "reason": each.reason} for each in summary.skipped],
        "lost": [
            {
                "series_instance_uid": uid,
                "series_number": one.number,
                "lost": [loss for loss in Loss if loss in one.lost],
            }
            for uid, one in summary.less.items()
        ],
    }
    lines = list(named_files("skipped", ((one.name, one.reason) for one in summary.skipped)))
    counts = f"{counted(summary.written, 'instance')} of {patients}"
    for one in summary.less.values():
        name = " ".join(filter(None, ("series", str(one.number or ""), one.description)))
        lines.append(printable(f"lost {name}: {in_words(one.lost)}"))
    if summary.less:
        losses = set[Loss]().union(*(one.lost for one in summary.less.values()))
        what = f"{counted(len(summary.less), 'series', 'series')} lost what volumes are made with"
        lines.append(f"{what}; {remedy(losses, how.profile.options)}")
    lines.append(f"{counts}, {len(summary.refused)} refused, {len(summary.skipped)} skipped: {out}")
    return Answer(data, "\n".join(lines), failed=not summary.written)


def _listed(given: list[str] | None) -> list[str]:
    return [name for names in given or () for name in names.split(",") if name]


@app.command()
def new(path: KeyFile, name: Name = None) -> None:
    """Write a file with a new key."""
    from node.children.pseudonyms import new_key_file

    print(f"{path}: key {new_key_file(path, name).name}")


@app.command()
def rotate(path: KeyFile, name: Name = None) -> None:
    """Add a new key to a file; pseudonyms are by it from then on."""
    from node.children.pseudonyms import rotate as rotated

    print(f"{path}: key {rotated(path, name).name}")


@app.command(name="map")
def map_(
    path: KeyFile,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            exists=True,
            help="The originals: DICOM files or a folder of them, such as `objects` of a root.",
        ),
    ],
    uids: Annotated[bool, typer.Option("--uids", help="List studies, series and instances too.")] = False,
    *,
    configured: Configured,
    json: Json = False,
) -> None:
    """Print the pseudonyms of originals as CSV, also of corrected ones. It is patient data."""
    from node.children.pseudonyms import read_keys
    from node.runtime import logs
    from node.web.pages.filters import csv_line

    logs.configure_command()  # pydicom logs values, which are patient data
    skipped: list[str] = []
    decided = _decided(source, configured.settings)
    lines = list(pseudonyms_of([source], read_keys(path), skipped, decided, with_uids=uids))
    if skipped:
        print(
            f"{counted(len(skipped), 'file')} without pseudonyms, because nothing can be read of them:", file=sys.stderr
        )
        for name in skipped:
            print(f"  {printable(name)}", file=sys.stderr)
    if json:
        print_json([line._asdict() for line in lines])
        return
    for line in (Line._fields, *lines):
        print(csv_line(line).decode().rstrip("\r\n"))


def _decided(source: Path, settings: Settings) -> Mapping[str, Sequence[Identity | str]]:
    """Return as whom studies left a root by its audit log, as Patient IDs, and as whom those that somebody has decided
    about leave now, as identities; none if `source` is of no root."""
    from node.audit.audit_files import patients_sent
    from node.control.root import is_root
    from node.index.reading import reading
    from node.index.rows.backend import IndexUnusable
    from node.index.rows.files import Identities

    root = next((folder for folder in (source.resolve(), *source.resolve().parents) if is_root(folder)), None)
    if root is None:
        return {}
    found: dict[str, list[Identity | str]] = {study: [*ids] for study, ids in patients_sent(root).items()}
    url = settings.index.url if settings.storage.root.resolve() == root else None
    try:
        with reading(root, url) as index:
            for study, identity in Identities(index.connection).by_study().items():
                found.setdefault(study, []).append(identity)
    except IndexUnusable as error:
        print(f"Pseudonyms of corrected patients are missing: {printable(str(error))}", file=sys.stderr)
    return found


class Line(NamedTuple):
    """A line of the map; `days_earlier` is that of dates, and None of what has none."""

    key: str
    kind: str
    issuer: str
    original: str
    pseudonym: str
    days_earlier: int | None = None


def pseudonyms_of(
    paths: Iterable[Path],
    keys: Sequence[PseudonymKey],
    skipped: list[str],
    decided: Mapping[str, Sequence[Identity | str]] = MappingProxyType({}),
    *,
    with_uids: bool = False,
) -> Iterator[Line]:
    """Yield the pseudonyms of patients, accession numbers and perhaps UIDs in files, each once for each key.

    The map is computed anew from originals and keys: it is stored nowhere. `decided`: Patient IDs and identities with
    which copies left or leave, by Study Instance UID. The names of files that cannot be read are added to `skipped`.
    """
    from pydicom import dcmread  # here and below, because the other commands do not need it

    from node.receive.dicom_files import SkippedFile, find_instances

    seen: set[Line] = set()
    for found in find_instances(paths):
        if isinstance(found, SkippedFile):
            skipped.append(found.name)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            try:
                with found.open_file() as file:
                    ds = dcmread(file, stop_before_pixels=True, force=True, specific_tags=_READ)
                lines = [line for key in keys for line in _lines(ds, key, with_uids)]
                for other in decided.get(str(ds.get("StudyInstanceUID", "")), ()):
                    if isinstance(other, str):
                        ds.PatientID = other
                    else:
                        other.apply(ds)
                    lines += [line for key in keys for line in _lines(ds, key, with_uids)]
            except Exception:  # pydicom raises anything for a damaged file
                skipped.append(found.name)
                continue
        yield from (line for line in dict.fromkeys(lines) if line not in seen)
        seen.update(lines)


def _lines(ds: Dataset, key: PseudonymKey, with_uids: bool) -> Iterator[Line]:
    from node.dicom.values import standard_tag
    from node.extensions.deidentify.elements import identifiers, patient_of

    patient = patient_of(ds)
    days = key.days_earlier(patient)
    yield Line(key.name, "patient", patient.issuer, patient.patient_id, key.patient(patient), days)
    for accession in filter(None, identifiers(ds, standard_tag("AccessionNumber"))):
        yield Line(key.name, "accession", "", accession, key.accession(accession))
    for kind, keyword in _UIDS.items() if with_uids else ():
        for uid in identifiers(ds, standard_tag(keyword)):
            yield Line(key.name, kind, "", uid, key.uid(uid))

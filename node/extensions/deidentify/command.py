"""``voxelnode deidentify``."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import Configured, Json
from node.cli.output import Answer, printable

if TYPE_CHECKING:
    from node.extensions.deidentify.deidentification import Deidentification

MAX_SHOWN = 100


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
            "--pixel-rules",
            metavar="FILE",
            help="TOML file of what devices burn into pixels; includes --clean pixels.",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="RISK",
            help="Pass pixels as they are: secondary-capture, ultrasound, photograph, burned-in or recognizable.",
        ),
    ] = None,
    deface: Annotated[
        str | None, typer.Option("--deface", metavar="NAME", help="Plugin that removes faces from each series.")
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
    from node import logs
    from node.control.audited_export import audited_export
    from node.errors import UsageError
    from node.extensions.deidentify.defacing import load_defacer
    from node.extensions.deidentify.deidentification import Deidentification
    from node.extensions.deidentify.files import Refused, deidentify_files
    from node.extensions.deidentify.pixel_rules import read_rules
    from node.extensions.deidentify.profile import Profile, options
    from node.extensions.deidentify.pseudonyms import passing_key, read_keys
    from node.extensions.deidentify.refusal import Reason, allowed

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # removes what was unpacked
    logs.configure("warning")  # pydicom logs values, which are patient data
    if profile is not None:
        if key or retain or clean or pixel_rules or allow:
            raise UsageError("--profile has key and options of its own; give either it or the others")
        how = _configured(profile, configured)
    else:
        cleaned = _listed(clean) + (["pixels"] if pixel_rules else [])
        how = Deidentification(
            Profile(options(_listed(retain), cleaned)),
            read_keys(key)[0] if key else passing_key(),
            allowed(_listed(allow)),
            read_rules(pixel_rules) if pixel_rules else (),
        )

    if deface:
        how = replace(how, allowed=how.allowed | {Reason.RECOGNIZABLE})

    def show(refused: Refused) -> None:
        if not json:
            print(f"refused {printable(refused.name)}: {refused.reason}: {printable(refused.detail)}", flush=True)

    defacer = load_defacer(deface) if deface else None
    chosen = ", ".join(sorted(how.profile.options)) or "no options"
    order = f"voxelnode deidentify {source.absolute()} to {out.absolute()}, {how.mark}, {chosen}"
    with audited_export(configured.settings, order) as outcome:
        summary = deidentify_files([source], out, how, defacer, show)
        patients = f"{len(summary.patients)} patient{'s' * (len(summary.patients) != 1)}"
        outcome.counts = f"{summary.written} instances of {patients} written, {len(summary.refused)} refused"
    data = {
        "written": summary.written,
        "patients": sorted(summary.patients),
        "key": how.key.name,
        "refused": [{"name": each.name, "reason": each.reason, "detail": each.detail} for each in summary.refused],
        "skipped": [{"name": each.name, "reason": each.reason} for each in summary.skipped],
    }
    lines = [f"skipped {printable(one.name)}: {printable(one.reason)}" for one in summary.skipped[:MAX_SHOWN]]
    counts = f"{summary.written} instances of {patients}"
    lines.append(f"{counts}, {len(summary.refused)} refused, {len(summary.skipped)} skipped: {out}")
    return Answer(data, "\n".join(lines), failed=not summary.written)


def _configured(name: str, configured: Configured) -> Deidentification:
    from node.extensions.deidentify.deidentification import configured_by_name
    from node.extensions.deidentify.settings import DeidentifySettings

    return configured_by_name(configured.settings.tables(DeidentifySettings), name)


def _listed(given: list[str] | None) -> list[str]:
    return [name for names in given or () for name in names.split(",") if name]

"""``voxelnode fsck``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, settings_for_change
from node.cli.output import print_json, print_table


def fsck(
    config: ConfigFile = None,
    root: Root = None,
    digests: Annotated[
        bool, typer.Option("--hash", help="Read every file and compare its SHA-256, not only its length.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired; stop the node first.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Repair even if more than a tenth of all files is missing.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare index, journal and files, and repair differences.

    Exit 1 if a difference remains.
    """
    settings = settings_for_change(config, root)

    from node.control.care import check_repository

    findings = check_repository(settings, digests=digests, repair=repair, force=force)
    left = [finding for finding in findings if finding.mended is None]
    if json:
        print_json({"ok": not left, "findings": [asdict(finding) for finding in findings]})
    elif findings:
        columns = ("kind", "path", "detail", "mended")
        print_table("", (*columns[:3], "repair"), [[_field(finding, name) for name in columns] for finding in findings])
    else:
        print(f"{settings.storage.root.absolute()}: journal, index, archive and volumes agree")
    if left:
        raise typer.Exit(1)


def _field(finding: Any, name: str) -> Any:
    return getattr(finding, name)

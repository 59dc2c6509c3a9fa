"""``voxelnode conformance``."""

from __future__ import annotations

import json as jsons
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import Configured, Json


class StatementFormat(StrEnum):
    """Format of the statement."""

    MD = "md"
    JSON = "json"


def conformance(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of standard output."),
    ] = None,
    format: Annotated[
        StatementFormat, typer.Option("--format", help="Markdown for people, JSON for programs.")
    ] = StatementFormat.MD,
    *,
    configured: Configured,
    json: Json = False,
) -> None:
    """Print the DICOM Conformance Statement.

    It describes this version with the values of the configuration.
    """
    settings = configured.settings

    from node.extensions.conformance.statement import statement, statement_for_programs

    if json or format is StatementFormat.JSON:
        text = jsons.dumps(statement_for_programs(settings), indent=2, ensure_ascii=False) + "\n"
    else:
        text = statement(settings)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")

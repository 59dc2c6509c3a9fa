"""``voxelnode conformance``."""

import json as jsons
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import Configured, Json


def conformance(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of standard output."),
    ] = None,
    *,
    configured: Configured,
    json: Json = False,
) -> None:
    """Print the DICOM Conformance Statement.

    It describes this version with the values of the configuration.
    """
    from node.extensions.conformance.statement import statement, statement_for_programs

    if json:
        text = jsons.dumps(statement_for_programs(configured.settings), indent=2, ensure_ascii=False) + "\n"
    else:
        text = statement(configured.settings)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")

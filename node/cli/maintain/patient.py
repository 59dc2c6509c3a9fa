"""``voxelnode patient list|merge``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.actions import perform
from node.cli.options import ConfigFile, Json, Root, reading_index, settings_for_change
from node.cli.output import print_json, print_table
from node.errors import UsageError

if TYPE_CHECKING:
    from node.index.database.reading import ReadIndex

app = typer.Typer(help="List and merge patients.", no_args_is_help=True)

COLUMNS = ("id", "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex", "studies")


@app.command("list")
def list_(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List the patients and their merges."""
    with reading_index(config, root) as index:
        rows = index.patients.all()
    if json:
        print_json(rows)
    else:
        print_table(
            f"{len(rows)} patients",
            ("#", "ID", "issuer", "name", "birth date", "sex", "studies", "merged into #"),
            [[row[name] for name in (*COLUMNS, "merged_into")] for row in rows],
        )


@app.command()
def merge(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Patient to merge: Patient ID, or # and a number from `patient list`.")
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="INTO", help="Patient that remains: Patient ID, or # and a number from `patient list`."),
    ],
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Merge two patients into one.

    All studies of FROM move to INTO, including studies received later.
    """
    settings = settings_for_change(config, root)

    from node.index.database.index import reading

    with reading(settings.storage.root, settings.index.url) as index:
        numbers = _number(index, source), _number(index, target)
    done = perform(settings, "merge-patients", source=numbers[0], target=numbers[1])
    if json:
        print_json({"from": numbers[0], "into": numbers[1], **done})
    else:
        print(f"patient #{numbers[0]} merged into #{numbers[1]}; {len(done['studies'])} studies moved")


def _number(index: ReadIndex, wanted: str) -> int:
    """Return the `id` in v_patients for a Patient ID, or for # and a number."""
    if wanted.startswith("#") and wanted[1:].isdecimal():
        return int(wanted[1:])
    rows = index.patients.with_patient_id(wanted)
    if not rows:
        raise UsageError(f"no patient has the ID {wanted!r}; `voxelnode patient list` lists them")
    if len(rows) > 1:
        known = ", ".join(f"#{row['id']} (issuer {row['issuer_of_patient_id'] or 'none'})" for row in rows)
        raise UsageError(f"several patients have the ID {wanted!r}; choose by number: {known}")
    return int(rows[0]["id"])

"""``voxelnode patient list|merge|correct|separate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from node.api import Answer, ChangedRoot, Columns, Commands, Listing, Root, UsageError, counted, listing

if TYPE_CHECKING:
    from node.api import ReadIndex

app = Commands(help="List, merge, correct and separate patients.", no_args_is_help=True)

PATIENTS: Columns = {
    "#": "id", "ID": "patient_id", "issuer": "issuer_of_patient_id", "name": "patient_name",
    "birth date": "patient_birth_date", "sex": "patient_sex", "studies": "studies", "merged into #": "merged_into",
}  # fmt: skip


ID = "Patient ID, or # and a number from `patient list`."
Study = Annotated[str | None, typer.Option("--study", metavar="UID", help="Of this study alone.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the studies that would move.")]


@app.command("list")
def list_(root: Root) -> Listing:
    """List the patients and their merges."""
    with root.looking() as index:
        rows = index.patients.all()
    return listing(counted(len(rows), "patient"), PATIENTS, rows)


@app.command()
def merge(
    source: Annotated[str, typer.Argument(metavar="FROM", help=f"Patient to merge: {ID}")],
    target: Annotated[str, typer.Argument(metavar="INTO", help=f"Patient that remains: {ID}")],
    dry_run: DryRun = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Merge two patients into one.

    All studies of FROM move to INTO, including studies received later. `patient separate FROM` undoes it.
    """
    with root.reading() as index:
        numbers = _number(root, index, source), _number(root, index, target)
    done = root.order("merge-patients", source=numbers[0], target=numbers[1], dry_run=dry_run)
    studies = counted(len(done["studies"]), "study", "studies")
    text = (
        f"patient #{numbers[0]} would be merged into #{numbers[1]}; {studies} would move"
        if dry_run
        else f"patient #{numbers[0]} merged into #{numbers[1]}; {studies} moved"
    )
    return Answer({"from": numbers[0], "into": numbers[1], "dry_run": dry_run, **done}, text)


@app.command()
def correct(
    old: Annotated[str, typer.Argument(metavar="OLD", help=f"Patient who is named wrongly: {ID}")],
    patient_id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="Right Patient ID.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="FAMILY^GIVEN", help="Right name.")] = None,
    birth_date: Annotated[
        str | None, typer.Option("--birth-date", metavar="YYYYMMDD", help="Right birth date.")
    ] = None,
    sex: Annotated[str | None, typer.Option("--sex", metavar="M|F|O", help="Right sex.")] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="TEXT", help="Issuer of the Patient ID.")] = None,
    study: Study = None,
    dry_run: DryRun = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Correct who a patient is, or of whom one study is.

    It holds for images received later as well, and every copy that leaves says it. Stored files do not change. If one
    person is known who is so described, the studies become that person's. `patient separate` undoes it.
    """
    with root.reading() as index:
        number, study = _number(root, index, old), study and root.named(study, "study").study
    values = {
        "patient_id": patient_id,
        "patient_name": name,
        "patient_birth_date": birth_date,
        "patient_sex": sex,
        "issuer_of_patient_id": issuer,
    }
    if all(value is None for value in values.values()):
        raise UsageError("say what is right: --id, --name, --birth-date, --sex or --issuer")
    done = root.order("correct-patient", patient=number, correction=values, study=study, dry_run=dry_run)
    corrected = "would be corrected" if dry_run else "corrected"
    text = f"patient #{number}: {counted(len(done['studies']), 'study', 'studies')} {corrected}"
    return Answer({"patient": number, "study": study, "dry_run": dry_run, **done}, text)


@app.command()
def separate(
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=ID)],
    issuer: Annotated[
        str | None,
        typer.Option(
            "--issuer", metavar="TEXT", help="Issuer of the Patient ID of this person; '' restores that of the files."
        ),
    ] = None,
    study: Study = None,
    dry_run: DryRun = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Undo a merge or a correction, or keep two people apart.

    The studies whose files name this person are this patient's again. Two people who share a Patient ID are
    distinguished by an issuer for one of them.
    """
    with root.reading() as index:
        number, study = _number(root, index, patient), study and root.named(study, "study").study
    done = root.order("separate-patient", patient=number, issuer=issuer, study=study, dry_run=dry_run)
    moved = "would move" if dry_run else "moved"
    text = f"{counted(len(done['studies']), 'study', 'studies')} {moved} back to whom its files name"
    return Answer({"patient": number, "dry_run": dry_run, **done}, text)


def _number(root: Root, index: ReadIndex, wanted: str) -> int:
    """Return the `id` in v_patients for a Patient ID, or for # and a number."""
    if wanted.startswith("#") and wanted[1:].isdecimal():
        return int(wanted[1:])
    rows = index.patients.with_patient_id(wanted)
    if not rows:
        study = index.studies.row(root.named(wanted, "study").study) or {}
        return int(study["patient"])
    rows = [row for row in rows if row["merged_into"] is None] or rows
    if len(rows) > 1:
        known = ", ".join(
            f"#{row['id']} ({row['patient_name'] or 'no name'}, issuer {row['issuer_of_patient_id'] or 'none'})"
            for row in rows
        )
        raise UsageError(f"several patients have the ID {wanted!r}; choose by number: {known}")
    return int(rows[0]["id"])

"""``voxelnode series`` and ``select``: lists of series."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from typing import Annotated, Any, Literal, get_args

import typer

from node.cli.options import Root
from node.cli.output import Columns, Listing, finding, listing, moment_of, patient, print_table
from node.completeness import Certainty
from node.selector.fields import SeriesState

PrintedState = Literal[SeriesState, "waiting", Certainty]
"""What the table says of a series (`state_of`), and the states of ``v_series``."""

_EVERY = 2**31 - 1

FIELDS = (
    "series_instance_uid",
    "modality",
    "state",
    "verdict",
    "certainty",
    "verdict_rule",
    "expected_instances",
    "expected_source",
    "instances",
    "missing_instances",
    "missing_detail",
    "verdict_reason",
    "revision",
    "due_at",
    "error",
    *(
        "series_number",
        "series_description",
        "protocol_name",
        "patient_name",
        "patient_id",
        "study_date",
        "study_instance_uid",
    ),
)


def _images(row: Mapping[str, Any]) -> Any:
    expected = row["expected_instances"]
    return f"{row['instances']}/{expected}" if expected not in (None, row["instances"]) else row["instances"]


def state_of(row: Mapping[str, Any]) -> Any:
    """Return the state of a series; once it is converted, its completeness stands for it."""
    from node.index.nouns.views import is_due

    if row["state"] == "converted":
        return row["certainty"] or row["state"]
    is_waiting = row["state"] == "receiving" and is_due(row["due_at"], dt.datetime.now(dt.UTC))
    return "waiting" if is_waiting else row["state"]


def _description(row: Mapping[str, Any]) -> Any:
    return row["series_description"] or row["protocol_name"]


SERIES: Columns = {
    "state": state_of,
    "no": "series_number",
    "patient": patient,
    "date": "study_date",
    "mod": "modality",
    "images": _images,
    "description": _description,
}

UIDS: Columns = {"series": "series_instance_uid"}

SELECTED = (
    "patient_id",
    "study_date",
    "modality",
    "series_description",
    "body_part",
    "instances",
    "slices",
    "certainty",
)


def series(
    study: Annotated[str | None, typer.Option("--study", metavar="UID", help="Only series of this study.")] = None,
    state: Annotated[
        PrintedState | None,
        typer.Option(
            "--state", metavar="STATE", help=f"Only series in this state: {', '.join(get_args(PrintedState))}."
        ),
    ] = None,
    of_patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="Only series of this Patient ID.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option("--modality", metavar="MODALITY", help="Only series of this modality, such as CT.")
    ] = None,
    since: Annotated[
        dt.datetime | None,
        typer.Option(
            "--since", metavar="DATE", formats=["%Y-%m-%d"], help="Only series received since, such as 2026-01-31."
        ),
    ] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Only incomplete and suspect series.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of series, newest first.")
    ] = 100,
    uids: Annotated[bool, typer.Option("--uids", help="With the Series Instance UIDs.")] = False,
    *,
    root: Root,
) -> Listing:
    """List series with their state and completeness.

    `voxelnode info` takes the patient, a UID that `--uids` shows, or the end of it, and says what a series that is
    receiving waits for.
    """
    with root.looking() as index:
        rows = index.series.newest(
            _EVERY if state == "waiting" else limit,
            study=study,
            state="receiving" if state == "waiting" else state,
            patient=of_patient,
            modality=modality and modality.upper(),
            incomplete=incomplete,
        )
    if state == "waiting":
        rows = [row for row in rows if state_of(row) == state][:limit]
    if since is not None:
        first = since.astimezone()
        rows = [*takewhile(lambda row: moment_of(row["last_received_at"]) >= first, rows)]
    rows = [{name: row[name] for name in FIELDS} for row in rows]
    problems = [
        line
        for row in rows
        if (incomplete or row["error"]) and row["state"] != "not-an-image"
        for line in finding(state_of(row), row["error"] or row["verdict_reason"], _named(row, uids=uids))
    ]
    columns = SERIES | UIDS if uids else SERIES
    return listing(f"{len(rows)} series", columns, rows, below=problems, cut=("patient", "description"))


def _named(row: Mapping[str, Any], *, uids: bool) -> str:
    """Return number, patient, date and description of a series, as the table has them."""
    number = row["series_number"]
    facts = (None if number is None else str(number), patient(row), row["study_date"], _description(row))
    return ", ".join(filter(None, (*facts, row["series_instance_uid"] if uids else None)))


def select(
    expression: Annotated[
        str,
        typer.Argument(
            metavar="EXPRESSION",
            help="Condition (`voxelnode help select`), such as 'modality == \"CT\"'.",
        ),
    ],
    why: Annotated[
        bool, typer.Option("--why", help="Show which clauses the other series do not fit, with their values.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of series to show.")] = 100,
    *,
    root: Root,
) -> Listing:
    """List the series that an expression selects, newest first."""
    from node.dicom.lean_import import load_names
    from node.selector import compile_selector

    load_names()
    selector = compile_selector(expression)
    fields = selector.fields.union(SELECTED, ("verdict",))
    selected: list[dict[str, Any]] = []
    others: list[tuple[str, list[tuple[str, str]]]] = []
    clauses: Counter[str] = Counter()
    counts = Counter({True: 0, False: 0})
    with root.reading() as index:
        for one in index.facts.all(fields):
            fits = selector.matches(one.facts)
            counts[fits] += 1
            study_instance_uid, series_instance_uid = one.key
            if fits and len(selected) < limit:
                uids = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
                selected.append({**uids, **one.facts})
            elif not fits and why:
                reasons = selector.why_not(one.facts)
                clauses.update({clause for clause, _ in reasons})
                if len(others) < limit:
                    others.append((series_instance_uid, reasons))
    data: dict[str, Any] = {"selected": counts[True], "others": counts[False], "series": selected}
    if why:
        data["clauses"] = dict(clauses)
        data["why_not"] = [
            {"series_instance_uid": uid, "clauses": [{"clause": c, "instead": i} for c, i in reasons]}
            for uid, reasons in others
        ]

    def show() -> None:
        more = f", the newest {limit}" if counts[True] > limit else ""
        rows = [[*(row[name] for name in SELECTED), row["series_instance_uid"]] for row in selected]
        columns = (*(name.replace("_", " ") for name in SELECTED), "series")
        print_table(f"{counts[True]} of {counts.total()} series{more}", columns, rows)
        if why:
            print_table("clauses that the others do not fit", ("clause", "series"), clauses.most_common())
            print_table(
                f"{counts[False]} others" + (f", the newest {limit}" if counts[False] > limit else ""),
                ("series", "clause", "but"),
                [(uid, clause, instead) for uid, reasons in others for clause, instead in reasons],
            )

    return Listing(data, show, rows=selected)

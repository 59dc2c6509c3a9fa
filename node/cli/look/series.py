"""``voxelnode series`` and ``select``: lists of series."""

import datetime as dt
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import typer

from node.cli.options import Limit, Root
from node.cli.output import Columns, Listing, bounded, finding, listing, newest, patient, print_table, printable
from node.completeness import Certainty
from node.selector import Facts, Selector
from node.selector.fields import NOT_CONVERTED, SeriesState
from node.volume.reasons import REMEDIES

PrintedState = Literal[SeriesState, "waiting", Certainty]
"""What the table says of a series (`state_of`), and the states of ``v_series``."""

DOUBTED = ("incomplete", "suspect")
"""States whose reason is printed if they are asked for."""

_EVERY = 2**31 - 1

FIELDS = (
    *("series_instance_uid", "modality", "state", "verdict", "certainty", "verdict_rule", "expected_instances"),
    *("expected_source", "instances", "missing_instances", "missing_detail", "verdict_reason", "revision", "due_at"),
    *("error", "series_number", "series_description", "protocol_name", "patient_name", "patient_id", "study_date"),
    "study_instance_uid",
)


def _images(row: Mapping[str, Any]) -> Any:
    expected = row["expected_instances"]
    return f"{row['instances']}/{expected}" if expected not in (None, row["instances"]) else row["instances"]


def state_of(row: Mapping[str, Any]) -> Any:
    """Return the state of a series; once it is converted, its completeness stands for it."""
    from node.quiet import is_due

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
    *("patient_id", "study_date", "modality", "series_description", "body_part", "instances", "slices", "certainty"),
)

NAMED = ("patient_id", "patient_name", "study_date", "series_number", "series_description", "protocol_name")
"""Fields by which tables name a series to people."""

UIDS_OF_SERIES = ("study_instance_uid", "series_instance_uid")


def _printed_state(text: str) -> str:
    if text not in get_args(PrintedState):
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, get_args(PrintedState)))}.")
    return text


def series(
    study: Annotated[str | None, typer.Option("--study", metavar="UID", help="Only series of this study.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            parser=_printed_state,
            help=f"Only series in this state: {', '.join(get_args(PrintedState))}. Several are alternatives.",
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
    limit: Limit = 100,
    uids: Annotated[bool, typer.Option("--uids", help="With the Series Instance UIDs.")] = False,
    *,
    root: Root,
) -> Listing:
    """List series with their state and completeness.

    `voxelnode info` takes the patient, a UID that `--uids` shows, or the end of it, and says what a series that is
    receiving waits for.
    """
    from node.index.rows.view_rows import judged

    states = frozenset(state or ())
    study = study and root.uid_of(study, "study")
    with root.looking() as index:
        newest_series = index.series.newest(
            _EVERY if "waiting" in states else limit,
            study=study,
            states=[*states - {"waiting"}, *(["receiving"] if "waiting" in states else [])],
            patient=of_patient,
            modality=modality and modality.upper(),
            since=since and since.astimezone(),
        )
    found, total = list(newest_series), newest_series.total
    if "waiting" in states:
        found = [row for row in found if not states.isdisjoint((row["state"], state_of(row)))]
        total = len(found)
    rows = [{name: row[name] for name in FIELDS} for row in map(judged, found[:limit])]
    hint = ""
    if of_patient is not None and not rows:
        hint = f"0 series. --patient is a Patient ID; for a name: {shlex.join(['voxelnode', 'info', of_patient])}"
    problems = [
        line
        for row in rows
        if (row["error"] or (states and state_of(row) in DOUBTED)) and row["state"] != "not-an-image"
        for line in finding(state_of(row), row["error"] or row["verdict_reason"], _named(row, uids=uids))
    ]
    whys = (row["why"] for row in found[:limit] if row["error"] and row["state"] in ("refused", "failed"))
    for reason in dict.fromkeys(why if why in REMEDIES else "failed" for why in whys):
        problems += finding(reason, REMEDIES[reason])
    columns = SERIES | UIDS if uids else SERIES
    title, cut = newest(len(rows), total, "series", "series"), ("patient", "description")
    shown = listing(title, columns, rows, none=printable(hint), below=problems, cut=cut)
    return bounded(shown, title, total)


def _named(row: Mapping[str, Any], *, uids: bool) -> str:
    """Return number, patient, date and description of a series, as the table has them."""
    number = row["series_number"]
    facts = (None if number is None else str(number), patient(row), row["study_date"], _description(row))
    return ", ".join(filter(None, (*facts, row["series_instance_uid"] if uids else None)))


def select(
    expression: Annotated[
        str,
        typer.Argument(metavar="EXPRESSION", help="Condition (`voxelnode help select`), such as 'modality == \"CT\"'."),
    ],
    why: Annotated[
        bool, typer.Option("--why", help="Show how many series each clause excludes, and those that fit all others.")
    ] = False,
    limit: Limit = 100,
    *,
    root: Root,
) -> Listing:
    """List the series that an expression selects, newest first."""
    from node.selector import compile_selector
    from node.selector.fields import FIELDS as SELECTABLE

    selector = compile_selector(expression)
    shown = (*SELECTED, *sorted(selector.fields.difference(SELECTED, UIDS_OF_SERIES)))
    fields = selector.fields.union(NAMED if why else (), ("state",))
    fits: list[int] = []
    others = _Others(limit)
    counts = Counter({True: 0, False: 0})
    with root.looking() as index:
        for one in index.facts.all(fields):
            is_selected = selector.matches(one.facts)
            counts[is_selected] += 1
            if is_selected and len(fits) < limit:
                fits.append(one.id)
            elif not is_selected and why:
                uids = dict(zip(UIDS_OF_SERIES, one.key, strict=True))
                others.add({"id": one.id, **uids, **one.facts}, selector, one.facts)
            elif not is_selected:
                others.by_count[0] += selector.may_match(one.facts)
        facts = index.facts.of_rows(SELECTABLE, [*fits, *(row["id"] for row in others.newest)])
    found = {id: {name: of_series[name] for name in SELECTABLE} for id, of_series in facts.items()}
    selected = [found[id] for id in fits]
    data: dict[str, Any] = {"selected": counts[True], "others": counts[False], "not_converted": others.by_count[0]}
    data["series"] = selected
    if why:
        data["clauses"] = dict(others.clauses)
        data["why_not"] = [
            {
                **{name: row[name] for name in (*UIDS_OF_SERIES, *NAMED)},
                "clauses": [{"clause": clause, "instead": instead} for clause, instead in row["clauses"]],
            }
            for row in others.newest
        ]

    def show() -> None:
        rows = [[*(_joined(row[name]) for name in shown), row["series_instance_uid"]] for row in selected]
        columns = (*(name.replace("_", " ") for name in shown), "series")
        cut = [name.replace("_", " ") for name in shown if SELECTABLE[name].type == "text"]
        more = f", the newest {limit}" if counts[True] > limit else ""
        print_table(f"{counts[True]} of {counts.total()} series{more}", columns, rows, cut)
        if why:
            others.show()
        elif count := others.by_count[0]:
            print(f"{count} more may fit, but {_are(count)} {NOT_CONVERTED}: see --why")

    rows = [
        {**found[row["id"]], "why_not": "; ".join(instead for _, instead in row["clauses"])} for row in others.newest
    ]
    left_out = newest(len(selected), counts[True], "series", "series") if counts[True] > limit else ""
    return Listing(data, show, rows=[*selected, *rows], left_out=left_out)


class _Others:
    """Series that an expression leaves out: the newest, the newest of those that one clause excludes, and counts.

    `by_count`: of series by the clauses that they do not fit: 0 if they may fit when they are converted, 1, or 2 for
    more.
    """

    def __init__(self, limit: int) -> None:
        self.clauses: Counter[str] = Counter()
        self.by_count: Counter[int] = Counter()
        self.newest: list[dict[str, Any]] = []
        self._limit = limit
        self._near: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any], selector: Selector, facts: Facts) -> None:
        """Add a series, newest first, that a selector does not select by these facts."""
        reasons = selector.why_not(facts)
        known = [reason for reason in reasons if reason[1] != NOT_CONVERTED] if not selector.may_match(facts) else []
        self.clauses.update({clause for clause, _ in known})
        self.by_count[min(len(known), 2)] += 1
        if len(self.newest) < self._limit:
            self.newest.append(row | {"clauses": reasons})
        if len(known) < 2 and len(rows := self._near if known else self._open) < self._limit:
            rows.append(row | {"clauses": known})

    def show(self) -> None:
        """Print how many series each clause excludes, and the series that fit all others."""
        print_table("clauses that the others do not fit", ("clause", "series"), self.clauses.most_common())
        print_table(
            f"{_do(self.by_count[1])} not fit one clause"
            + (f", the newest {self._limit}" if self.by_count[1] > self._limit else ""),
            ("patient", "date", "no", "description", "clause", "but", "series"),
            [(*_who(row), *row["clauses"][0], row["series_instance_uid"]) for row in self._near],
            ("patient", "description", "clause", "but"),
        )
        if self.by_count[2]:
            print(f"{_do(self.by_count[2])} not fit several clauses: see --json or --tsv")
        if count := self.by_count[0]:
            print_table(
                f"{count} series may fit, but {_are(count)} {NOT_CONVERTED}"
                + (f", the newest {self._limit}" if count > self._limit else ""),
                ("patient", "date", "no", "description", "series"),
                [(*_who(row), row["series_instance_uid"]) for row in self._open],
                ("patient", "description"),
            )


def _who(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return patient(row), row["study_date"], row["series_number"], _description(row)


def _do(count: int) -> str:
    return f"{count} series {'does' if count == 1 else 'do'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value

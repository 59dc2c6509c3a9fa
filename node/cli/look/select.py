"""``voxelnode select``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, reading_index
from node.cli.output import print_json, print_table

SHOWN = ("patient_id", "study_date", "modality", "series_description", "body_part", "instances", "slices", "certainty")


def select(
    expression: Annotated[
        str,
        typer.Argument(
            metavar="EXPRESSION", help="Condition on the fields of docs/select.md, such as 'modality == \"CT\"'."
        ),
    ],
    why: Annotated[
        bool, typer.Option("--why", help="Show which clauses the other series do not fit, with their values.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of series to show.")] = 100,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List the series that an expression selects, newest first."""
    from node.selector import compile_selector

    selector = compile_selector(expression)
    fields = selector.fields.union(SHOWN, ("verdict",))
    selected: list[dict[str, Any]] = []
    others: list[tuple[str, list[tuple[str, str]]]] = []
    clauses: Counter[str] = Counter()
    counts = Counter({True: 0, False: 0})
    with reading_index(config, root) as index:
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
    if json:
        result: dict[str, Any] = {"selected": counts[True], "others": counts[False], "series": selected}
        if why:
            result["clauses"] = dict(clauses)
            result["why_not"] = [
                {"series_instance_uid": uid, "clauses": [{"clause": c, "instead": i} for c, i in reasons]}
                for uid, reasons in others
            ]
        print_json(result)
        return
    title = f"{counts[True]} of {counts.total()} series"
    more = f", the newest {limit}" if counts[True] > limit else ""
    rows = [[row["series_instance_uid"], *(row[name] for name in SHOWN)] for row in selected]
    print_table(title + more, ("series", *(name.replace("_", " ") for name in SHOWN)), rows)
    if why:
        print_table("clauses that the others do not fit", ("clause", "series"), clauses.most_common())
        print_table(
            f"{counts[False]} others" + (f", the newest {limit}" if counts[False] > limit else ""),
            ("series", "clause", "but"),
            [(uid, clause, instead) for uid, reasons in others for clause, instead in reasons],
        )

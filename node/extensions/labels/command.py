"""``voxelnode label list|add|remove``."""

from typing import Annotated

import typer

from node.api import (
    Answer,
    ChangedRoot,
    Columns,
    Commands,
    Listing,
    Root,
    SeriesUids,
    StudyUids,
    counted,
    listing,
    studies_or_series,
)

app = Commands(help="Give labels to studies and series, and take them away.", no_args_is_help=True)

LABELS: Columns = {"label": "label", "studies": "studies", "series": "series"}

Label = Annotated[str, typer.Argument(metavar="LABEL", help="At most 64 characters, without a comma.")]


@app.command("list")
def list_(root: Root) -> Listing:
    """List the labels in use."""
    from node.extensions.labels.known import LabelViews

    with root.looking() as index:
        rows = index.views(LabelViews).known()
    return listing(counted(len(rows), "label"), LABELS, rows)


@app.command()
def add(label: Label, studies: StudyUids, series: SeriesUids = [], *, root: ChangedRoot) -> Answer:  # noqa: B006
    """Give a label to studies, or to series of one study."""
    return _change(root, "add", label, studies, series)


@app.command()
def remove(label: Label, studies: StudyUids, series: SeriesUids = [], *, root: ChangedRoot) -> Answer:  # noqa: B006
    """Take a label from studies, or from series of one study."""
    return _change(root, "remove", label, studies, series)


def _change(root: ChangedRoot, how: str, label: str, studies: list[str], series: list[str]) -> Answer:
    targets = studies_or_series(root, studies, series)
    done = root.order("change-labels", targets=targets, **{how: [label]})
    what = "series" if series else "studies"
    said = "given to" if how == "add" else "taken from"
    return Answer({"label": label, **done}, f"{label!r} {said} {done['changed']} of {len(targets)} {what}")

"""``voxelnode rejections``."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.options import ConfigFile, Json, Root, reading_index
from node.cli.output import print_json, print_table


def rejections(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Number of refusals to show.")] = 20,
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """List recent refusals with sender, reason and remedy."""
    with reading_index(config, root) as index:
        rows = index.rejections.newest(last)[::-1]
    if json:
        print_json(rows)
    elif not rows:
        print("no refusals")
    else:
        print_table(
            f"last {len(rows)} kinds of refusals",
            ("last", "times", "refused", "address", "calling AET", "called AET", "offered", "reason", "remedy"),
            [
                (
                    row["last_at"],
                    row["count"],
                    row["what"],
                    row["peer"],
                    row["calling_ae_title"],
                    row["called_ae_title"],
                    row["offered"],
                    row["reason"],
                    row["remedy"],
                )
                for row in rows
            ],
        )

"""``voxelnode conflicts``."""

from __future__ import annotations

from node.cli.options import ConfigFile, Json, Root, reading_index
from node.cli.output import print_json, print_table


def conflicts(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List identity conflicts.

    A conflict is one UID or Patient ID with different content.
    """
    with reading_index(config, root) as index:
        rows = index.conflicts.all()
    if json:
        print_json(rows)
    elif not rows:
        print("no conflicts")
    else:
        print_table(
            f"{len(rows)} conflicts",
            ("found", "kind", "study", "instance", "sender", "conflict", "kept at"),
            [
                (
                    row["found_at"],
                    row["kind"],
                    row["study_instance_uid"],
                    row["sop_instance_uid"],
                    row["calling_ae_title"],
                    row["detail"],
                    row["path"],
                )
                for row in rows
            ],
        )

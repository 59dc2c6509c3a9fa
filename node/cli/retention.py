"""``voxelnode retention``."""

from __future__ import annotations

import datetime as dt

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table


def retention(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Tell which studies the rules of retention let go now; deletes nothing, a serving node does every hour."""
    settings = load(config, storage__root=root).settings

    from node.index.database import reading
    from node.lifecycle.retention import expired_studies

    with reading(settings.storage.root) as index:
        studies = index.stored_studies()
    expired = expired_studies(studies, settings.retention, dt.datetime.now(dt.UTC))
    rows = [(one.study.study_instance_uid, one.study.last_received_at, one.rule) for one in expired]
    if json:
        listed = [{"study_instance_uid": uid, "last_received_at": last, "rule": rule} for uid, last, rule in rows]
        print_json({"studies": len(studies), "dry_run": settings.retention.dry_run, "expired": listed})
    elif not settings.retention.is_active:
        print(f"nothing is ever deleted: no rule under [retention]; {len(studies)} studies are kept")
    else:
        print_table(f"{len(rows)} of {len(studies)} studies would go", ("study", "last received", "rule"), rows)

"""``voxelnode retention``."""

from __future__ import annotations

import datetime as dt

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table


def retention(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """List the studies that retention would delete now.

    This command deletes nothing; `serve` deletes them hourly.
    """
    settings = load(config, storage__root=root).settings

    from node.index.database.index import reading
    from node.lifecycle.retention import expired_studies, kept_studies

    with reading(settings.storage.root, settings.index.url) as index:
        studies = index.studies.stored()
        kept = kept_studies(index, settings.retention)
    expired = expired_studies(studies, settings.retention, dt.datetime.now(dt.UTC), kept)
    rows = [(entry.study.study_instance_uid, entry.study.last_received_at, entry.rule) for entry in expired]
    if json:
        listed = [{"study_instance_uid": uid, "last_received_at": last, "rule": rule} for uid, last, rule in rows]
        print_json({"studies": len(studies), "dry_run": settings.retention.dry_run, "expired": listed})
    elif not settings.retention.is_active:
        print(f"retention: unlimited (no rules in [retention]); {len(studies)} studies are kept")
    else:
        print_table(f"{len(rows)} of {len(studies)} studies would be deleted", ("study", "last received", "rule"), rows)

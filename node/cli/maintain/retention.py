"""``voxelnode retention [confirm|set|remove]``."""

from __future__ import annotations

import datetime as dt

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Answer, Columns, Listing, listing, patient
from node.cli.run.config import Keys, SetsKeys, Unset, in_force, set_table
from node.errors import counted

EXPIRED: Columns = {
    "patient": patient,
    "date": "study_date",
    "study": "study_instance_uid",
    "last received": "last_received_at",
    "rule": "rule",
}

app = Commands(help="List what retention would delete, set rules, or let it go on.", invoke_without_command=True)


@app.callback()
def list_(root: Root) -> Listing:
    """List the studies that retention would delete now, and what it waits for.

    This command deletes nothing; `serve` deletes them hourly.
    """
    rules = root.settings.retention

    from node.lifecycle.expired import SPARED, due_now

    with root.looking() as index:
        due = due_now(index, rules, dt.datetime.now(dt.UTC))
        state = index.retention
        rows = [
            {
                **{name: row[name] for name in ("patient_name", "patient_id", "study_date", "study_instance_uid")},
                "last_received_at": entry.study.last_received_at,
                "rule": entry.rule,
            }
            for entry in due.expired
            if (row := index.studies.row(entry.study.study_instance_uid)) is not None
        ]

    def show() -> None:
        if not rules.is_active:
            print(f"retention: unlimited (no rules); studies kept: {due.studies}")
        else:
            title = f"{len(rows)} of {counted(due.studies, 'study', 'studies')} would be deleted"
            listing(title, EXPIRED, rows).show()
            for rule, count in due.spared.items():
                print(f"kept by {SPARED[rule]}, and due otherwise: {counted(count, 'study', 'studies')}")
            if rules.dry_run:
                print("[retention] dry_run is set: a pass deletes none of them, and logs which it would")
            if due.is_unusual(rules, state.approved) and state.waits_for is None:
                when = "without dry_run, " if rules.dry_run else ""
                print(f"more than [retention] maximum_share: {when}a pass waits for `voxelnode retention confirm`")
        if state.waits_for is not None:
            print(state.waits_for)

    data = {
        "studies": due.studies,
        "dry_run": rules.dry_run,
        "waits_for": state.waits_for,
        "is_unusual": due.is_unusual(rules, state.approved),
        "spared": due.spared,
        "expired": rows,
    }
    return Listing(data, show, rows=rows)


@app.command()
def confirm(root: ChangedRoot) -> Answer:
    """Confirm that the clock is right, or what is due may go.

    Retention waits for this if something contradicts the clock, or if a pass would delete more than [retention]
    maximum_share of all studies. Check the clock with `date`, and the studies with `voxelnode retention`.
    """
    done = root.order("confirm-retention")
    return Answer(done, f"confirmed: {done['confirmed']}" if done["confirmed"] else "retention waits for nothing")


@app.command("set", cls=SetsKeys)
def set_rules(keys: Keys = None, unset: Unset = None, *, root: ChangedRoot) -> Answer:
    """Set rules of retention.

    Keys that are not given stay. The next pass of the node follows them, and `voxelnode retention` lists what they
    would delete.
    """
    return in_force(set_table(root, "retention", keys, unset))


@app.command("remove")
def remove_rules(root: ChangedRoot) -> Answer:
    """Remove the rules that were set here."""
    return in_force(root.order("remove-table", table="retention"))

"""Who has taken what of studies: destinations, hooks, people, links, backups; each with the identity that it has.

A decision changes nothing elsewhere. So every decision about studies answers with this list: what destinations have
taken is in rows, and all else that has left is in the audit log, also that of other hosts.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Any

from node.archive.proof import last_proof
from node.audit.audit_files import Holder, takers_of
from node.errors import counted
from node.index.reading import ReadIndex
from node.receive.custody import examined
from node.settings.model import Settings

BIDS = "voxelnode bids to "
"""How a data set was exported by a command, as the audit log has it."""


def holders(index: ReadIndex, settings: Settings, studies: Collection[str], *, is_gone: bool = False) -> list[Holder]:
    """Return who has studies, or may have them, each once for each identity that was sent.

    `is_gone`: the studies, or a part of them, will not be here any more: nothing can be sent again.
    """
    root, own = settings.storage.root.absolute(), settings.cluster.name or ""
    found = [
        Holder(
            row["destination"],
            f"{('route ' + row['route']) if row['route'] else 'sent by hand'}, {counted(row['sent'], 'instance')}",
            *(str(row["last_at"])[:19].replace(" ", "T"), row["patient_id"] or "", study),
        )
        for study in studies
        for row in index.routes.sent_of_study(study)
        if row["sent"]
    ]
    known = {(one.who, one.patient_id, one.study_instance_uid) for one in found}
    copies = (line for name in index.audit_lines.hosts() if name != own for _, line in index.audit_lines.of_host(name))
    logged = takers_of(root, studies, copies)
    found += [one for one in logged if (one.who, one.patient_id, one.study_instance_uid) not in known]
    proof = last_proof(root)
    if proof is not None and proof.succeeded_at is not None:
        found.append(Holder(proof.backup, "backup that was proved", proof.succeeded_at, remedy="`voxelnode backup`"))
    return [one if one.remedy else replace(one, remedy=_remedy(index, settings, one, is_gone)) for one in found]


def _remedy(index: ReadIndex, settings: Settings, holder: Holder, is_gone: bool) -> str:
    """Return the line that mends what somebody has of a study."""
    uid, name = holder.study_instance_uid, holder.who.removeprefix("hook ").partition(" ")[0]
    where = f"--where 'study_instance_uid == \"{uid}\"'"
    if name in settings.destinations and not settings.destinations[name].takes_instances:  # a BIDS data set
        return f"`voxelnode bids {settings.destinations[name].folder_of} --prune`"
    if holder.how.startswith(BIDS):
        return f"`voxelnode bids {quote(holder.how.removeprefix(BIDS).partition(', key ')[0])} --prune`"
    if is_gone:
        return "have it deleted there"
    is_hook = holder.who.startswith("hook ")
    routes = [key for key, route in settings.routes.items() if name in route.to]
    if is_hook and name in settings.hooks:
        return f"`voxelnode hooks replay {name} --again {where}`"
    if is_hook or name not in settings.receivers:
        return "have it taken again"
    again = f"routes replay {routes[0]}/{name} {where}" if routes else f"peers send {uid} --to {name}"
    former = holder.patient_id not in (None, index.studies.patient_id(uid))
    return f"`voxelnode {again}`" + (f", and have what is of {holder.patient_id} deleted there" if former else "")


def decided_about(index: ReadIndex, root: Path, named: Mapping[str, Any]) -> set[str]:
    """Return the studies that the arguments of one of `DECISIONS` name."""
    numbers = [*named.get("trash", ()), *([named["number"]] if "number" in named else ())]
    found = {row["study_instance_uid"] for number in numbers for row in index.trash.entries(number)}
    found |= {study for _, _, study in named.get("objects", ())}
    if "level" in named:
        found.add(index.plan_deletion(named["level"], named["uid"], named["study_instance_uid"]).study_instance_uid)
    other: Mapping[str, Any] = index.conflicts.one(named["conflict"]) or {} if "conflict" in named else {}
    other = asdict(examined(root, index, named["name"])) if "name" in named else other
    current = index.instances.row(other.get("sop_instance_uid") or "") or {}
    return found | {uid for one in (other, current) if (uid := one.get("study_instance_uid"))}


DECISIONS = frozenset({"accept-conflict", "release-quarantined", "delete", "erase", "restore-trash", "empty-trash"})
"""Those that name what they are about by their arguments; other decisions answer with their ``studies``."""

GONE = frozenset({"delete", "erase", "empty-trash"})
"""Decisions after which there is nothing that could be sent again."""

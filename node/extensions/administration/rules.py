"""What the REST resources of routes, hooks and retention have in common: rules, and who changed them last."""

from __future__ import annotations

from typing import Any

from node.extensions.administration.additions import Listed, listed
from node.settings.model import AddedTable
from node.web.access import LOCAL, Call
from node.web.api.models import Moment, Resource
from node.web.errors import Forbidden, ResourceNotFound


class Rules(Resource):
    """Keys of a table of the configuration with the defaults, and who changed them last."""

    rules: dict[str, Any]
    changed_by: str | None
    changed_at: Moment | None
    unusable: str | None


def changed(one: Listed) -> dict[str, Any]:
    """Return the fields of who changed it last, and why it does nothing."""
    by, at = (one.row.changed_by, one.row.changed_at) if one.row is not None else (None, None)
    return {"changed_by": by, "changed_at": at, "unusable": one.unusable}


def one_of(call: Call, table: AddedTable, name: str) -> Listed:
    """Return one of a table by its name, or raise ResourceNotFound."""
    found = next((one for one in listed(call.node.settings, call.node.index, table) if one.name == name), None)
    if found is None:
        raise ResourceNotFound(table[:-1])
    return found


def require_account(call: Call) -> None:
    """Refuse a change by somebody who has no account: the audit log would not say who it was."""
    if call.account == LOCAL:
        raise Forbidden("nobody is signed in: make an account with `voxelnode account add NAME --role admin`")

"""Where is it? What a caller may learn of something that a request has not found.

Whoever sees the whole node learns it (`node.receive.whereabouts`). For members of projects, links, receivers of jobs,
and tokens that do not reach the lists behind the sentence, what they do not see does not exist, whatever became of it.
"""

from __future__ import annotations

from contextlib import suppress

from fastapi import Request

from node.errors import VoxelnodeError
from node.index.database.reading import ReadIndex
from node.index.nouns.accounts import Role
from node.receive.whereabouts import Whereabouts, whereabouts
from node.web.principal import Principal
from node.web.services import Services
from node.web.token_routes import covers

SECONDS = 0.5
"""How long a request searches the ledger and the audit log."""

LEVELS = {
    "instance": ("sop_instance_uid", "instance"),
    "series": ("series_instance_uid", "series"),
    "study": ("study_instance_uid", "study"),
}
"""The parameters of paths that have the UID of a level, of our addresses and of those of DICOMweb."""

LISTS = "/api/v1/trash", "/api/v1/rejections"
"""What a token has to reach."""


def where_it_is(request: Request) -> Whereabouts | None:
    """Return what became of the instance, the series or the study that the path of a request names.

    None if it is there: the request has not found something else.
    """
    given = [request.path_params.get(name) for names in LEVELS.values() for name in names]
    uids = [uid for uid in given if isinstance(uid, str)]
    found = learnt(request, *uids) if uids else None
    return found if found is None or not found.place or not set(uids) <= set(found.place) else None


def learnt(request: Request, sought: str, *above: str) -> Whereabouts | None:
    """Return where something is, or what became of it, as far as the caller of a request may know."""
    caller = _who_may_know(request)
    if caller is None:
        return None
    node: Services = request.app.state.services
    with suppress(VoxelnodeError, OSError), node.index.reading() as index:
        is_admin = caller.role >= Role.ADMIN
        admitted = {peer.ae_title for peer in node.settings.peers.values()}
        return whereabouts(
            index,
            node.archive.root,
            sought,
            *above,
            is_admin=is_admin,
            seconds=SECONDS,
            admitted=admitted,
            local=node.archive.local,
        )
    return None


def trashed(request: Request, index: ReadIndex, sought: str) -> int:
    """Return how many deletions in the trash are of a UID, a Patient ID or a part of a name; 0 for whom it is not."""
    caller = _who_may_know(request)
    return len(index.trash.naming(sought)) if caller is not None and caller.role >= Role.ADMIN else 0


def _who_may_know(request: Request) -> Principal | None:
    caller: Principal | None = getattr(request.state, "account", None)
    if caller is None or caller.scope is not None or caller.kind in ("job", "link"):
        return None
    return caller if all(covers(caller.routes, path) for path in LISTS) else None

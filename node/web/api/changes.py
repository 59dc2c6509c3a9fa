"""Changes as a client wants them: only if the resource is as the client has seen it (RFC 9110 13.1.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Response

from node.index.read import ReadIndex
from node.index.terms import Terms
from node.web.api.models import Resource
from node.web.errors import PreconditionFailed
from node.web.services import Node, Services

One = TypeVar("One", bound=Resource)
Result = TypeVar("Result", bound=Resource)


def etag_of(resource: Resource) -> str:
    """Return the strong entity tag of a resource: a digest of its JSON."""
    return f'"{sha256(resource.model_dump_json().encode()).hexdigest()[:32]}"'


def tagged(response: Response, resource: One) -> One:
    """Return a resource after setting its ETag in the response."""
    response.headers["ETag"] = etag_of(resource)
    return resource


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A request to change something, and its conditions."""

    node: Services
    if_match: str | None

    def make(self, current: Callable[[ReadIndex], Resource], act: Callable[[Terms], Result]) -> Result:
        """Return the result of `act` if the resource is as the client has seen it.

        Parameters
        ----------
        current : callable
            Returns the resource that is to be changed.
        act : callable
            Makes the change. A change that is one transaction of the index fulfils the terms in it.

        Raises
        ------
        PreconditionFailed
            It is not, and nothing was changed.
        """

        def check(index: ReadIndex) -> None:
            if self.if_match is not None:
                etag = etag_of(current(index))
                if not _matches(self.if_match, etag):
                    raise PreconditionFailed(etag)

        if self.if_match is not None:
            with self.node.index.reading() as index:
                check(index)
        return act(Terms(check))


def _matches(tags: str, etag: str) -> bool:
    """Return whether If-Match has an entity tag, by strong comparison: a weak one never matches."""
    return any(tag.strip() in (etag, "*") for tag in tags.split(","))


def _requested(
    node: Node,
    if_match: Annotated[
        str | None, Header(max_length=1000, description="change the resource only if it has one of these entity tags")
    ] = None,
) -> ChangeRequest:
    return ChangeRequest(node, if_match)


Change = Annotated[ChangeRequest, Depends(_requested)]
"""Parameter of a route that changes something: the conditions of the request."""

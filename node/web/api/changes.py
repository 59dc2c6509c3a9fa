"""Changes as a client wants them: only to the resource that it has seen (If-Match, RFC 9110 13.1.1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Response

from node.index.database.reading import ReadIndex, checked
from node.index.engine.rows import Terms
from node.web.access import Call, CurrentCall
from node.web.api.models import Resource
from node.web.errors import PreconditionFailed
from node.web.headers import is_match

One = TypeVar("One", bound=Resource)
Result = TypeVar("Result", bound=Resource)


def etag_of(resource: Resource) -> str:
    """Return the strong entity tag of a resource: a digest of its JSON, in whichever order the index tells it."""
    canonical = json.dumps(resource.model_dump(mode="json"), sort_keys=True)
    return f'"{sha256(canonical.encode()).hexdigest()[:32]}"'


def tagged(response: Response, resource: One) -> One:
    """Return a resource after setting its ETag in the response."""
    response.headers["ETag"] = etag_of(resource)
    return resource


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A request to change something, and its conditions."""

    call: Call
    response: Response
    if_match: str | None

    def make(
        self,
        result: type[Result],
        current: Callable[[ReadIndex], Resource],
        act: Callable[[Terms], Result | Mapping[str, Any]],
    ) -> Result:
        """Return what `act` did if the resource is as the client has seen it, or the result of the same request.

        `current` returns the resource that is to be changed. A change that is one transaction of the index fulfils the
        terms in it. Raises PreconditionFailed before anything is changed.
        """
        return result.model_validate(act(self._terms(current)))

    def _terms(self, current: Callable[[ReadIndex], Resource]) -> Terms:
        def check(index: ReadIndex) -> None:
            if self.if_match is not None:
                etag = etag_of(current(index))
                if not is_match(self.if_match, etag):
                    raise PreconditionFailed(etag)

        if self.if_match is not None:
            with self.call.node.index.reading() as index:
                check(index)
        return checked(check)


def _requested(
    call: CurrentCall,
    response: Response,
    if_match: Annotated[
        str | None, Header(max_length=1000, description="change the resource only if it has one of these entity tags")
    ] = None,
) -> ChangeRequest:
    return ChangeRequest(call, response, if_match)


Change = Annotated[ChangeRequest, Depends(_requested)]
"""Parameter of a route that changes something: the conditions of the request."""

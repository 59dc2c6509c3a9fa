"""Reasons for refusing a request; `node.web.problems` converts these errors to responses."""

import math
from collections.abc import Collection

from node.errors import UsageError, VoxelnodeError, near
from node.runtime.budget import Rule

MAX_TOLD, MAX_NAME_LENGTH = 5, 64
"""Unknown parameters that an answer names, and how much of each."""


class NotAuthenticated(VoxelnodeError):
    """The request comes from no account, and the node requires one."""


class Forbidden(VoxelnodeError):
    """The account may not do this."""


class TooManyTries(VoxelnodeError):
    """Too many wrong passwords."""

    def __init__(self, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"too many wrong tries: try again in {self.seconds} s")


class ResourceNotFound(VoxelnodeError):
    """An object does not exist or was deleted; `kind` is a noun such as ``study``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(f"There is no such {kind}.")


class DownloadsBusy(VoxelnodeError):
    """Too many downloads that are made on demand are under way."""


class ProblemsChanged(VoxelnodeError):
    """Problems are not those that a person saw any more."""

    def __init__(self) -> None:
        super().__init__("the problems of this cause have changed since you saw them: look at them again")


class EntryThere(VoxelnodeError):
    """The worklist has an entry for the same step."""


class EntryOfFile(VoxelnodeError):
    """An entry of the worklist is changed by its file only."""


class NoPlace(VoxelnodeError):
    """All places that a caller may have are taken (`node.runtime.budget`); try again later."""

    def __init__(self, rule: Rule, what: str) -> None:
        whose = {"caller": " of this account", "address": " of this address", "places": ""}[rule]
        super().__init__(f"too many {what}{whose} are open already")


class SignInFailed(VoxelnodeError):
    """The identity provider did not confirm the user; sign in again."""


class ProviderUnavailable(VoxelnodeError):
    """The identity provider does not answer; try again later."""


class UnknownParameters(VoxelnodeError):
    """A query parameter that the resource does not take, often a misspelt filter."""

    def __init__(self, unknown: Collection[str], known: Collection[str]) -> None:
        unknown_names = "; ".join(_unknown(name, known) for name in sorted(unknown)[:MAX_TOLD])
        super().__init__(f"{unknown_names}; the resource takes {', '.join(sorted(known)) or 'no parameters'}")


def _unknown(name: str, known: Collection[str]) -> str:
    meant = near(name[:MAX_NAME_LENGTH], known)[:1]
    return f"unknown parameter {name[:MAX_NAME_LENGTH]!r}" + "".join(f" (do you mean {one}?)" for one in meant)


class PreconditionFailed(VoxelnodeError):
    """The resource has changed since the client read it; `etag` is its entity tag now."""

    def __init__(self, etag: str) -> None:
        self.etag = etag
        super().__init__(f"the resource has changed: its entity tag is {etag} now")


class WrongCursor(UsageError):
    """`after` is not a cursor of this list; start without it."""

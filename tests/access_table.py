"""The table and the lists of docs/access.md that say whom each request is for: ``python -m tests.access_table`` writes
them.

They are made from what routes declare (`node.web.access.declared`). tests/web/test_every_route.py compares them with
what a node answers.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from node.settings.core import Storage
from node.settings.model import Settings
from node.web.access import Allow, declared
from node.web.application import routes_of

DOCUMENT = Path(__file__).parents[1] / "docs" / "access.md"

BEGIN, END = "<!-- requests: begin -->", "<!-- requests: end -->"

METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
COLUMNS = 118

ROLES = ("read", "write", "admin")
IN_PROJECT = ("read", "write", "manage")

Answer = Literal["yes", "401", "403", "404"]


@dataclass(frozen=True)
class Asker:
    """Somebody who asks, by the role in the whole node, and by that in a project for those who see projects only."""

    name: str
    role: str = ""
    in_project: str | None = None
    is_link: bool = False
    is_job: bool = False


NOBODY = Asker("nobody, or somebody with a wrong token")
LINK = Asker("whoever has a link, at its address", is_link=True)
JOB = Asker("the receiver of a job, at its address", is_job=True)
TOKEN_OF_PROJECT = Asker("a token for one project", "write", "write")
ASKERS = (
    NOBODY,
    LINK,
    JOB,
    *(Asker(f"an account with the role {role}", role) for role in ROLES),
    Asker("a member with the role read", "write", "read"),
    Asker("a member with the role write", "write", "write"),
    Asker("a member with the role manage", "write", "manage"),
    Asker("a member with the role manage, and read in the node", "read", "manage"),
    TOKEN_OF_PROJECT,
)


def answer(asker: Asker, allowed: Allow) -> Answer:
    """Return what somebody is answered by a route: yes, or a status; of a project, as far as the project goes."""
    if allowed.who == "anybody":
        return "yes"
    if allowed.who == "link":
        return "yes" if asker.is_link else "404"
    if asker.is_job and allowed.job:
        return "yes"
    if not asker.role:
        return "401"
    if asker.in_project is None:
        needed = "admin" if allowed.in_project == "manage" else allowed.who
        return "yes" if ROLES.index(asker.role) >= ROLES.index(needed) else "403"
    if not allowed.in_project or IN_PROJECT.index(asker.in_project) < IN_PROJECT.index(allowed.in_project):
        return "403"
    return "yes" if ROLES.index(asker.role) >= ROLES.index(allowed.who) else "403"


def name_of(allowed: Allow) -> str:
    """Return the words of the document for whom a route allows."""
    if allowed.in_project == "manage":
        return "managers"
    return f"{allowed.who}{', members' if allowed.in_project else ''}{', job' if allowed.job else ''}"


def requests(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], Allow]:
    """Return whom each request allows, by method and path."""
    found: dict[tuple[str, str], Allow] = {}
    for route in routes:
        if isinstance(route, APIRoute):
            allowed = declared(route)
            assert allowed is not None, route.path
            found |= {(method, route.path): allowed for method in route.methods}
    return found


def tables(routes: Iterable[BaseRoute]) -> str:
    """Return the table of answers, and the lists of requests by whom they allow."""
    found = requests(routes)
    kinds = sorted(
        {*found.values()}, key=lambda one: (("anybody", "link", *ROLES).index(one.who), one.in_project, one.job)
    )
    lines = ["| Who asks | " + " | ".join(map(name_of, kinds)) + " |", "|---" * (len(kinds) + 1) + "|"]
    for asker in ASKERS:
        cells = (answer(asker, kind) for kind in kinds)
        lines.append(f"| {asker.name} | " + " | ".join(cells) + " |")
    paths = sorted({path for _, path in found})
    for kind in kinds:
        lines += ["", f"**{name_of(kind)}**:", ""]
        by_methods: dict[tuple[str, ...], list[str]] = {}
        for path in paths:
            if methods := tuple(method for method in METHODS if found.get((method, path)) == kind):
                by_methods.setdefault(methods, []).append(f"`{path.replace(':path}', '}')}`")
        for methods in sorted(by_methods, key=lambda some: [METHODS.index(one) for one in some]):
            item = f"- {', '.join(methods)}: {', '.join(by_methods[methods])}"
            lines += textwrap.wrap(item, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def written() -> str:
    """Return the document with what is made of the routes of now."""
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    settings = Settings(storage=Storage(root=Path("/srv/voxelnode")))
    return f"{head}{BEGIN}\n{tables(routes_of(settings))}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(), encoding="utf-8")

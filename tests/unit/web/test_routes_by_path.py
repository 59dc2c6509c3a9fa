"""The route of a request is found among the few of its path, and is the one that all routes would have given."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message

from node.settings.model import Settings
from node.web.application import routes_of
from node.web.routes_by_path import RoutesByPath

ROUTES = routes_of(Settings())


def saying_its_path(route: BaseRoute) -> BaseRoute:
    if not isinstance(route, Route):
        assert isinstance(route, Mount)
        return Mount(route.path, app=Response(f"mounted at {route.path}"))

    async def answer(request: Request) -> Response:
        return Response(f"{route.path} {route.methods} {request.path_params}")

    return Route(route.path, answer, methods=sorted(route.methods or ()))


def paths() -> list[str]:
    """Paths of all routes, with a value that is a word of other routes too, and paths that no route has."""
    of_routes = {str(route.path) for route in ROUTES if isinstance(route, Route | Mount)}
    found = {"/".join("series" if part.startswith("{") else part for part in path.split("/")) for path in of_routes}
    return sorted({*found, "/", "//", "/a//b", "/nothing", "/studies/", "/api/v1/peers/"})


async def asked(app: ASGIApp, path: str, method: str) -> tuple[Any, ...]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": path, "root_path": "", "scheme": "http", "query_string": b"",
        "headers": [(b"host", b"node")], "server": ("node", 80),
    }  # fmt: skip
    await app(scope, None, send)  # type: ignore[arg-type]
    return messages[0]["status"], dict(messages[0]["headers"]).get(b"location"), messages[1]["body"]


@pytest.mark.slow
def test_the_few_routes_of_a_path_answer_as_all_routes_do() -> None:
    router = APIRouter(routes=[saying_its_path(route) for route in ROUTES])
    by_path = RoutesByPath(router)

    async def compare() -> set[int]:
        statuses = set()
        for path in paths():
            for method in ("GET", "OPTIONS"):
                answer = await asked(router.app, path, method)
                assert await asked(by_path, path, method) == answer, (method, path)
                statuses.add(answer[0])
        return statuses

    assert asyncio.run(compare()) == {200, 307, 404, 405}

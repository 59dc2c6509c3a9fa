"""GET /api/v1/hello."""

from __future__ import annotations

from node.web.access import READERS
from node.web.api.models import Resource
from node.web.api.routing import api_router
from node.web.services import Node
from voxelnode_hello.settings import HelloSettings

router = api_router(READERS, "hello")


class Greeting(Resource):
    """A greeting."""

    greeting: str


@router.get("/hello")
def greet(node: Node) -> Greeting:
    """Greet whom [hello] names."""
    return Greeting(greeting=node.settings.table(HelloSettings).greeting)

"""GET /api/v1/hello."""

from __future__ import annotations

from node.api import READERS, Node, Resource, api_router
from voxelnode_hello.rows import ReadGreetings
from voxelnode_hello.settings import HelloSettings

router = api_router(READERS, "hello")


class Greeting(Resource):
    """A greeting, and how many studies were greeted."""

    greeting: str
    studies: int


@router.get("/hello")
def greet(node: Node) -> Greeting:
    """Greet whom [hello] names."""
    with node.index.reading() as index:
        studies = index.repository(ReadGreetings).count()
    return Greeting(greeting=node.settings.table(HelloSettings).greeting, studies=studies)

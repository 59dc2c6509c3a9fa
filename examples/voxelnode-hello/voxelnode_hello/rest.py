"""GET and POST /api/v1/hello."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from voxelnode.api import READERS, WRITERS, Node, Resource, api_router

from voxelnode_hello.rows import GreetingRepository, GreetingViews
from voxelnode_hello.settings import HelloSettings

router = api_router(READERS, "hello")


class Greeting(Resource):
    """A greeting, and how many studies were greeted."""

    greeting: str
    studies: int


class NewGreeting(BaseModel):
    """A greeting to say."""

    model_config = ConfigDict(extra="forbid")

    greeting: Annotated[str, Field(min_length=1, max_length=64)]


@router.get("/hello")
def greet(node: Node) -> Greeting:
    """Greet whom [hello] names."""
    with node.index.reading() as index:
        studies = index.views(GreetingViews).count()
    return Greeting(greeting=node.settings.table(HelloSettings).greeting, studies=studies)


@router.post("/hello", dependencies=WRITERS)
def greet_now(node: Node, said: NewGreeting) -> Greeting:
    """Greet each study that nobody has greeted, at once and with other words."""
    studies = node.index.repository(GreetingRepository).greet(said.greeting, node.index.now())
    return Greeting(greeting=said.greeting, studies=studies)

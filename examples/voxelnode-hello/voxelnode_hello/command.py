"""``voxelnode hello``."""

from __future__ import annotations

from voxelnode.api import Answer, Configured

from voxelnode_hello.settings import HelloSettings


def hello(configured: Configured) -> Answer:
    """Greet whom [hello] names."""
    greeting = configured.settings.table(HelloSettings).greeting
    return Answer({"greeting": greeting}, greeting)

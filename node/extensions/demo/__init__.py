"""The whole flow on one machine, with series whose volumes are known in advance."""

from node.api import Command, Extension


class _Demo(Extension):
    """A node that shows what it does."""

    name = "demo"
    commands = (Command("demo", "Run", f"{__name__}.command:demo", ("voxelnode demo",), before="init"),)


EXTENSION = _Demo()

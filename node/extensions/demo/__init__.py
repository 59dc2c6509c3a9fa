"""The whole flow on one machine, with two real series and a head phantom."""

from __future__ import annotations

from node.hookspecs import Command, Extension


class _Demo(Extension):
    """A node that shows what it does."""

    name = "demo"
    commands = (Command("demo", "Run", f"{__name__}.command:demo", ("voxelnode demo",), before="init"),)


EXTENSION = _Demo()

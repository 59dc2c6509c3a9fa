"""``voxelnode hello``."""

from __future__ import annotations

from node.cli.options import ConfigFile, Json, load
from node.cli.output import print_json
from voxelnode_hello.settings import HelloSettings


def hello(config: ConfigFile = None, json: Json = False) -> None:
    """Greet whom [hello] names."""
    greeting = load(config).settings.table(HelloSettings).greeting
    if json:
        print_json({"greeting": greeting})
    else:
        print(greeting)

"""An extension of voxelnode that greets (docs/extensions.md): it adds one of everything that most extensions add."""

from __future__ import annotations

from voxelnode.api import Command, Extension, Kind, Parts, Router, Running, Statement, Table


class _Hello(Extension):
    name = "hello"
    commands = (Command("hello", "Look", "voxelnode_hello.command:hello", ("voxelnode hello",)),)
    tables = (Table("hello", "voxelnode_hello.settings:HelloSettings"),)
    routers = (Router("rest", "voxelnode_hello.rest:router"),)
    destinations = (
        Kind("greetings", "voxelnode_hello.settings:GreetingsDestination", "voxelnode_hello.greetings:destination"),
    )
    hooks = (Kind("greetings", "voxelnode_hello.settings:GreetingsHook", "voxelnode_hello.greetings:channel"),)
    statement = Statement({"Cross-Service Considerations": "voxelnode_hello.statement:GREETINGS"})
    index_tables = "voxelnode_hello.tables:TABLES"

    def run(self, node: Parts) -> Running:
        from voxelnode_hello.service import Greeter
        from voxelnode_hello.settings import HelloSettings

        return Running(services=(Greeter(node.settings.table(HelloSettings), node.ingest),))


EXTENSION = _Hello()

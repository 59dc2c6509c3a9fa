"""An extension of voxelnode that greets: a command, a table of the configuration, a service and a route of REST."""

from __future__ import annotations

from node.association.added import Parts, Running
from node.hookspecs import Command, Extension, Router, Table


class _Hello(Extension):
    name = "hello"
    commands = (Command("hello", "Look", "voxelnode_hello.command:hello", ("voxelnode hello",)),)
    tables = (Table("hello", "voxelnode_hello.settings:HelloSettings"),)
    routers = (Router("rest", "voxelnode_hello.rest:router"),)

    def run(self, node: Parts) -> Running:
        from voxelnode_hello.service import Greeter
        from voxelnode_hello.settings import HelloSettings

        return Running(services=(Greeter(node.settings.table(HelloSettings)),))


EXTENSION = _Hello()

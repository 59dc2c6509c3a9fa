"""The command line, ``voxelnode``."""

from node.cli.application import main

__all__ = ["main"]

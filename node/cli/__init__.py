"""The command line, ``voxelnode``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.conversion.pool import Converters

SERVING = gc.get_threshold()
LOADING = (50_000, 20, 100)
"""Thresholds of the garbage collector. Module objects are never freed; scanning them costs a fifth of the startup."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; `arguments` default to those of the process."""
    _open_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(*LOADING)
    with ExitStack() as at_the_end:
        at_the_end.callback(gc.freeze)  # otherwise the exit collects garbage in all modules
        if given[:1] == ["convert"] and not {"-h", "--help"} & set(given):
            # Its search for plugins reads the metadata of all packages. Programs of hooks may want theirs.
            os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
            at_the_end.callback(close_converters)
            converters().start()  # the child loads NumPy and codecs while we load the command line and find the files

        from node.cli.application import main as run

        run(given)


@cache
def converters() -> Converters:
    """Return the child processes of ``voxelnode convert``; the first starts before anything else is loaded."""
    for name in ("concurrent.futures.thread", "hashlib", "importlib.metadata", "logging", "tempfile"):
        import_module(name)  # both need them
    from node.conversion.pool import Converters

    return Converters()


def close_converters() -> None:
    """Kill the children of this run."""
    converters().close()
    converters.cache_clear()


def _open_standard_streams() -> None:
    """Reopen closed standard streams: otherwise a file opened later would get their descriptor, and our output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))

"""The command line, ``voxelnode``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

SERVING = gc.get_threshold()
LOADING = (50_000, 20, 100)
"""Thresholds of the garbage collector: searching what modules are made of, which stays, takes a fifth of the start."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; without arguments those of the process.

    Only here is it loaded: child processes load the module that started their parent once more.
    """
    _open_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(*LOADING)
    with ExitStack() as at_the_end:
        at_the_end.callback(gc.freeze)  # all modules would be searched for garbage on the way out
        if given[:1] == ["convert"]:
            from node.cli.converters import CONVERTERS

            at_the_end.callback(CONVERTERS.close)
            CONVERTERS.start()  # it loads arrays and codecs while we load the command line and find the files

        from node.cli.application import main as run

        run(given)


def _open_standard_streams() -> None:
    """Open what whoever started us has closed: a file that took its number would be read and printed on."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))

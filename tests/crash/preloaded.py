"""Starts nodes quickly: a process that has imported everything forks one `voxelnode` for each line that it is given.

    python -m tests.crash.preloaded [MUTANT]

A line of its input is JSON: ``arguments`` of the command, ``environment`` to add, ``output`` (a FIFO) and ``log``. It
answers with the number of the process; after an empty line, with its exit status, when it has ended. Until then the
number stays that of the process, even if it is dead: a signal can never reach another one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import node.__main__
from node import failpoints
from node.cli import main as voxelnode
from node.control import node as app
from tests.crash import mutants


def serve(order: dict[str, Any]) -> None:
    """Become the node; never returns."""
    output = os.open(order["output"], os.O_WRONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (log, 2)):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.environ.update(order["environment"])
    importlib.reload(failpoints)  # reads its variable
    # What the converter's child imports as its main module: nothing more than that of a real node.
    sys.modules["__main__"] = mutants if mutants.VARIABLE in os.environ else node.__main__
    voxelnode(order["arguments"])


def main() -> None:
    assert app is not None  # imported for its weight
    if sys.argv[1:]:
        os.environ[mutants.VARIABLE] = sys.argv[1]
        mutants.MUTANTS[sys.argv[1]]()
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                serve(json.loads(line))
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                os._exit(status)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()

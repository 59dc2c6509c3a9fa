"""The child processes that make results: what a hook leaves is read there, within limits."""

from __future__ import annotations

import gc
import json
from importlib import import_module
from typing import Any

from node.child_process.child import ChildDied, ChildPool
from node.child_process.messages import ChildCancelled, ChildLate
from node.child_process.serving import Apart, Channel, ChildLimits, serve_apart, use_one_thread
from node.dicom.lean_import import load_pydicom
from node.errors import OutOfResources, ResultRefused
from node.extensions.results.child import answer
from node.extensions.results.making import Making

LIMITS = ChildLimits(memory_bytes=8_000_000_000, cpu_seconds=600, deadline_seconds=900.0)
MAX_ANSWER_BYTES = 1 << 20
MAX_REASON_CHARACTERS = 500

LIBRARIES = (
    "highdicom.seg",
    "highdicom.sr",
    "nibabel",
    "pydantic",
    "node.extensions.results.segmentation",
    "node.extensions.results.report",
    "node.extensions.results.document",
)


class Makers:
    """Makes instances of results in child processes. Thread-safe. The first result starts a child."""

    def __init__(self) -> None:
        self._children = ChildPool(serve, name="voxelnode-results", max_answer_bytes=MAX_ANSWER_BYTES)

    def make(self, making: Making) -> dict[str, Any]:
        """Make one result; return its identifiers.

        Raises
        ------
        ResultRefused
            It cannot be made of what the hook left.
        OutOfResources
            The node is stopping, the disk is full, or the child took too long.
        """
        source = making.source
        reads = making.file, source.sample, *(path for stack in source.stacks for _, path in stack.files)
        try:
            content = self._children.call(Apart(making, LIMITS, reads, (making.into,)), LIMITS.deadline_seconds)
        except ChildCancelled:
            raise OutOfResources("the node is stopping") from None
        except ChildLate:
            raise OutOfResources(f"{making.entry.file} took more than {LIMITS.deadline_seconds:g} s") from None
        except ChildDied as died:
            cause = "more memory than the node allows" if died.out_of_memory else "ended its process"
            raise ResultRefused(f"{making.entry.file}: {cause}") from died
        return made_of(content, making)

    def close(self) -> None:
        """Kill the children at once."""
        self._children.close()


def made_of(content: bytes, making: Making) -> dict[str, Any]:
    """Return what an answer of a child says of the instance that it made; errors as of `Makers.make`."""
    outcome, result = json.loads(content)
    if outcome == "shortage":
        raise OutOfResources(f"disk: {result['reason']}")
    if outcome != "made":
        raise ResultRefused(f"{making.entry.file}: {str(result['reason'])[:MAX_REASON_CHARACTERS]}")
    return dict(result)


def serve(channel: Channel) -> None:
    """Make results until the channel closes, each in a process of its own."""
    use_one_thread()
    load_pydicom()
    for name in LIBRARIES:
        import_module(name)
    gc.collect()
    gc.freeze()  # otherwise a collection in a process copies the pages of all modules
    serve_apart(channel, answer)

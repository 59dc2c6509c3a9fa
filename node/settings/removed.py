"""Keys of earlier versions. A configuration that still has one causes a warning, not an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ONE_WAIT = "the wait between two attempts is 30 s at first and doubles up to an hour"

REMOVED_KEYS: Mapping[tuple[str, ...], str] = {
    ("storage", "low_bytes"): "new associations are rejected below twice reserve_bytes",
    ("dicom", "fast_path"): "instances are always written to the archive while they arrive",
    ("dicom", "maximum_request_bytes"): "an A-ASSOCIATE-RQ may have 131072 bytes",
    ("dicom", "maximum_pending_connections"): "128 connections may be open without an association",
    ("dicom", "commitment_attempts"): "the result of a storage commitment is given up after 10 attempts",
    ("dicom", "commitment_retry_seconds"): _ONE_WAIT,
    ("convert", "montage_step"): "a montage shows every fifth slice",
    ("convert", "cpu_seconds"): "the processor time of a conversion is limited to deadline_seconds",
    ("convert", "retry_seconds"): _ONE_WAIT,
    ("web", "maximum_connections_per_address"): "one address may have 100 connections, a trusted proxy any number",
    ("hooks", "*", "retry_seconds"): _ONE_WAIT,
    ("hooks", "*", "maximum_per_second"): "a hook is sent up to 50 messages a second",
}
"""Each removed key, and the rule that replaced it; ``*`` matches any name."""


def take_removed(tree: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """Delete the removed keys from a configuration; return them with the rules that replaced them."""
    taken = {}
    for pattern, rule in REMOVED_KEYS.items():
        for path in list(_matches(tree, pattern)):
            table = tree
            for name in path[:-1]:
                table = table[name]
            del table[path[-1]]
            taken[path] = rule
    return taken


def _matches(tree: Any, pattern: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not pattern:
        yield ()
    elif isinstance(tree, Mapping):
        for name in tree if pattern[0] == "*" else tree.keys() & {pattern[0]}:
            for below in _matches(tree[name], pattern[1:]):
                yield (name, *below)

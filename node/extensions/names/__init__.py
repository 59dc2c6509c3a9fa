"""``[storage] names``: a tree of links by name beside the volumes, whose folders have UIDs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.api import Extension, Parts, Running, UsageError, node_template

if TYPE_CHECKING:
    from node.api import Settings


class _Names(Extension):
    """Keeps the tree true while the node runs, and makes it again at the start."""

    name = "names"

    def mistakes(self, settings: Settings) -> Iterator[str]:
        storage = settings.storage
        if storage.names is None:
            return
        if self.name in settings.extensions.disabled:
            yield "storage: names is of an extension that [extensions] disabled switches off"
        if storage.url is not None:
            yield "storage: names needs the files of volumes in root, and with url they may be only in the object store"
        try:
            node_template(storage.names)
        except UsageError as error:
            yield f"storage: {error}"

    def run(self, node: Parts) -> Running:
        from node.extensions.names.tree import NameTree, Tree, has_tree

        root, names = node.ingest.archive.root, node.settings.storage.names
        if names is None and not has_tree(root):
            return Running()
        template = node_template(names) if names is not None else None
        return Running((NameTree(Tree(root, template), node.ingest.index),))


EXTENSION = _Names()

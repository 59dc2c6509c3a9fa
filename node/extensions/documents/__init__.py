"""An index for some of the attributes without a column."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot, Parts, Running, Table


class _Documents(Extension):
    """``[query]``, ``voxelnode db reindex``, and the service that does the same while the node runs."""

    name = "documents"
    commands = (Command("db reindex", "Maintain", f"{__name__}.command:reindex", ("voxelnode db reindex",)),)
    tables = (Table("query", f"{__name__}.settings:QuerySettings"),)

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.documents.filling import fill_terms
        from node.extensions.documents.settings import QuerySettings

        index, indexed = root.ingest.index, root.settings.table(QuerySettings).indexed
        return {"reindex": lambda: {"left": fill_terms(index, indexed)}}

    def run(self, node: Parts) -> Running:
        from node.extensions.documents.filling import IndexedTerms
        from node.extensions.documents.settings import QuerySettings

        return Running((IndexedTerms(node.ingest.index, node.settings.table(QuerySettings).indexed),))


EXTENSION = _Documents()

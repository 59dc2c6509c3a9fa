"""Documents of attributes: those of old archives are written in the background, and some attributes get an index."""

from __future__ import annotations

from collections.abc import Mapping

from node.hookspecs import Action, Command, Extension, OpenedRoot, Parts, Running, Table


class _Documents(Extension):
    """``[query]``, ``voxelnode db reindex``, and the service that does the same while the node runs."""

    name = "documents"
    commands = (Command("db reindex", "Maintain", f"{__name__}.command:reindex", ("voxelnode db reindex",)),)
    tables = (Table("query", f"{__name__}.settings:QuerySettings"),)

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        from node.extensions.documents.filling import Filling
        from node.extensions.documents.settings import QuerySettings

        filling = Filling(root.ingest.archive, root.ingest.index, root.settings.table(QuerySettings).indexed)
        return {"reindex": filling.action}

    def run(self, node: Parts) -> Running:
        from node.extensions.documents.filling import Documents
        from node.extensions.documents.settings import QuerySettings

        indexed = node.settings.table(QuerySettings).indexed
        return Running((Documents(node.ingest.archive, node.ingest.index, indexed),))


EXTENSION = _Documents()

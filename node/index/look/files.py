"""Which files rows name: of instances, of versions that lost, and of volumes, in one view of the index."""

from contextlib import AbstractContextManager, nullcontext

from sqlalchemy import Connection, select

from node.index.rows import files
from node.index.rows.models.history import RevisionFileRow
from node.index.rows.records import RevisionFile
from node.index.rows.repositories import reads
from node.index.rows.view_rows import ViewRows


class ReadFiles(ViewRows):
    """The files of instances and volumes."""

    def _reading(self) -> AbstractContextManager[Connection]:
        return nullcontext(self._queries.connection)

    stored = reads(files.stored_instances)

    selected = reads(files.selected_instances)

    of_instances = reads(files.instance_files)

    named_keys = reads(files.named_keys)

    unknown_keys = reads(files.unknown_keys)

    wanted_files = reads(files.wanted_files)

    losers = reads(files.losers)

    loser_keys = reads(files.loser_keys)

    def to_be_set_aside(self) -> set[str]:
        """Return the keys in quarantine of replaced versions that are still to be fetched from the object store."""
        return set(self._queries.connection.scalars(select(files.aside_of_order())))

    of_volumes = reads(files.volume_files)

    file_at = reads(files.revision_file)

    def files_in(self, folder: str) -> list[RevisionFile]:
        """Return the files of a revision by its folder, sorted by name; empty if their places are not noted."""
        inside = RevisionFileRow.key > f"{folder}/", RevisionFileRow.key < f"{folder}0"  # "0" follows "/"
        return files.revision_files(
            self._queries.connection, files.REVISION_FILES.where(*inside).order_by(RevisionFileRow.key)
        )

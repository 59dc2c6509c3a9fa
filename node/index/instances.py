"""Instances: how they get into the index, and which files their rows name."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.orm import join

from node.dicom.attributes import InstanceAttributes
from node.index.events import record_event
from node.index.models import ConflictRow, ImageRow, SeriesRow, StudyRow
from node.index.records import Arrived, Kept, StoredFile
from node.index.repository import IndexRepository, on_reader, on_writer
from node.index.writer import IndexWriter
from node.settings.model import OverwritePolicy


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """The file that a row of images names; `bytes` and `sha256` are of the data set, which begins at the offset."""

    sop_instance_uid: str
    key: str
    data_set_offset: int
    bytes: int
    sha256: str
    file_missing: bool


class InstanceRepository(IndexRepository):
    """The instances of an index.

    Parameters
    ----------
    note_arrival : callable
        Called for each instance: searches give way while instances arrive.
    """

    def __init__(self, writer: IndexWriter, reader: Engine, note_arrival: Callable[[], None]) -> None:
        super().__init__(writer, reader)
        self._note_arrival = note_arrival

    def add(
        self,
        attributes: InstanceAttributes,
        file: StoredFile,
        quiet_seconds: float,
        folder: Path,
        overwrite_policy: OverwritePolicy = "never",
    ) -> Kept:
        """Index one instance; returns after the commit. See `node.index.arrivals.add_instances`.

        Parameters
        ----------
        quiet_seconds : float
            Its series is due this long after it, unless another instance arrives.
        folder : Path
            Holds the file; synced before the commit.

        Raises
        ------
        OutOfResources
            The commit failed or may have failed.
        """
        self._note_arrival()
        return self._writer.add(Arrived(attributes, file, quiet_seconds, overwrite_policy), folder)

    def submit(
        self, attributes: InstanceAttributes, file: StoredFile, quiet_seconds: float, folder: Path
    ) -> Future[Kept]:
        """As `add` under the policy ``never``, without waiting: many share a commit, in their order."""
        self._note_arrival()
        return self._writer.submit(Arrived(attributes, file, quiet_seconds), folder)

    def expecting(self) -> AbstractContextManager[None]:
        """Announce an instance that is about to be added: others wait a moment to share its commit."""
        return self._writer.expecting()

    @on_reader
    def files(self, connection: Connection, folder: str) -> list[InstanceFile]:
        """Return the files that rows of images name in one folder, such as ``objects/00000000``."""
        return list(instance_files(connection, folder))

    @on_reader
    def unknown_keys(self, connection: Connection, keys: Sequence[str]) -> list[str]:
        """Return those of `keys` (at most a folder's worth) that no row names: of images, or of conflicts."""
        known = {
            *connection.scalars(select(ImageRow.key).where(ImageRow.key.in_(keys))),
            *connection.scalars(select(ConflictRow.key).where(ConflictRow.key.in_(keys))),
        }
        return [key for key in keys if key not in known]

    @on_reader
    def loser_keys(self, connection: Connection) -> set[str]:
        """Return the keys of the files that lost against another file of their SOP Instance UID.

        A crash between the commit and the move leaves such a file where it was received.
        """
        return loser_keys(connection)

    @on_writer
    def mark_files(self, connection: Connection, keys: Sequence[str], *, missing: bool, now: dt.datetime) -> int:
        """Note that files (at most a folder's worth) are missing, or are there again.

        An instance whose file is missing takes the next arrival under its UID as its own.

        Returns
        -------
        int
            For how many instances that is news.
        """
        rows = connection.execute(
            select(ImageRow.id, ImageRow.sop_instance_uid, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
            .select_from(join(ImageRow, SeriesRow).join(StudyRow))
            .where(ImageRow.key.in_(keys), ImageRow.file_missing.is_not(missing))
        ).all()
        marked = update(ImageRow).where(ImageRow.id.in_([row.id for row in rows]))
        connection.execute(marked.values(file_missing=missing))
        for row in rows:
            record_event(
                connection,
                "file-missing" if missing else "file-found",
                now,
                study_instance_uid=row.study_instance_uid,
                series_instance_uid=row.series_instance_uid,
                sop_instance_uid=row.sop_instance_uid,
            )
        return len(rows)


def instance_files(connection: Connection, folder: str | None = None) -> Iterator[InstanceFile]:
    """Yield the files of all instances in the order of their keys, or of those in one folder."""
    query = select(
        ImageRow.sop_instance_uid,
        ImageRow.key,
        ImageRow.data_set_offset,
        ImageRow.bytes,
        ImageRow.sha256,
        ImageRow.file_missing,
    ).order_by(ImageRow.key)
    if folder is not None:
        query = query.where(ImageRow.key > f"{folder}/", ImageRow.key < f"{folder}0")  # "0" follows "/"
    for row in connection.execute(query):
        yield InstanceFile(*row)


def loser_keys(connection: Connection) -> set[str]:
    """Return the keys of the files that lost against another file of their SOP Instance UID, and are kept."""
    keys = connection.scalars(select(ConflictRow.key).where(ConflictRow.key.is_not(None)).distinct())
    return {key for key in keys if key is not None}

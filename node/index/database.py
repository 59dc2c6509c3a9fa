"""The index of one root: opened once by the node, which alone writes to it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from node.dicom.attributes import InstanceAttributes
from node.index import instances, series
from node.index.engine import FILE_NAME, IndexUnusable, open_engine, upgrade
from node.index.models import About
from node.index.records import ClaimedSeries, Outcome, SeriesOutcome, StoredFile
from node.index.writer import IndexWriter
from node.metrics import Metrics


class Index:
    """Rows of one root.

    Parameters
    ----------
    root : Path
        Holds ``index.sqlite``, which is created or upgraded.
    sync_folder : callable
        See `IndexWriter`.

    Raises
    ------
    IndexUnusable
        The file is damaged or newer than this program.
    """

    def __init__(self, root: Path, sync_folder: Callable[[Path], None], metrics: Metrics) -> None:
        self.path = root.absolute() / FILE_NAME
        upgrade(self.path)
        self._engine = open_engine(self.path)
        self._writer = IndexWriter(self._engine, sync_folder, metrics)
        self.remember("root", str(root.absolute()))

    def add_instance(
        self, attributes: InstanceAttributes, file: StoredFile, quiet_seconds: float, folder: Path
    ) -> Outcome:
        """Index one instance; returns after the commit. See `node.index.instances.add_instances`.

        Parameters
        ----------
        folder : Path
            Holds the file; synced before the commit.

        Raises
        ------
        OutOfResources
            The row may not be committed.
        """
        return self._writer.add(instances.Arrived(attributes, file, quiet_seconds), folder)

    def unknown_keys(self, keys: Sequence[str]) -> list[str]:
        """Those of `keys` (at most a folder's worth) that have no row."""
        known = self._writer.run(lambda connection: instances.known_keys(connection, keys))
        return [key for key in keys if key not in known]

    def claim_due_series(self, now: dt.datetime) -> ClaimedSeries | None:
        """Take the series that has been due longest, if there is one."""
        return self._writer.run(lambda connection: series.claim_due_series(connection, now))

    def record_outcome(self, claimed: ClaimedSeries, outcome: SeriesOutcome, now: dt.datetime) -> bool:
        """Write a revision and end the claim; False when the claim was no longer ours."""
        return self._writer.run(lambda connection: series.record_outcome(connection, claimed, outcome, now))

    def record_crash(
        self, claimed: ClaimedSeries, detail: str, attempts: int, retry_seconds: float, now: dt.datetime
    ) -> bool:
        """Note that the converter died; returns whether it will be tried again."""
        return self._writer.run(
            lambda connection: series.record_crash(connection, claimed, detail, attempts, retry_seconds, now)
        )

    def release_claim(self, claimed: ClaimedSeries, now: dt.datetime) -> None:
        """Hand a series back unconverted: it is due at once."""
        self._writer.run(lambda connection: series.release_claim(connection, claimed, now))

    def release_all_claims(self, now: dt.datetime) -> int:
        """Hand back what a dead process had claimed; returns how many series."""
        return self._writer.run(lambda connection: series.release_all_claims(connection, now))

    def shift_due_times(self, step: dt.timedelta) -> None:
        """Follow a step of the system clock, so that what was due in ten seconds still is."""
        self._writer.run(lambda connection: series.shift_due_times(connection, step))

    def live_revisions(self) -> set[tuple[str, str, int]]:
        """(Study Instance UID, Series Instance UID, revision) of every recorded conversion."""
        return self._writer.run(series.live_revisions)

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for the writer."""
        return self._writer.waiting

    def remember(self, key: str, value: str) -> None:
        """Keep a fact of this index."""
        statement = insert(About).values(key=key, value=value)
        statement = statement.on_conflict_do_update(index_elements=["key"], set_={"value": value})
        self._writer.run(lambda connection: connection.execute(statement))

    def about(self, key: str) -> str | None:
        """A fact that `remember` kept."""
        return self._writer.run(lambda connection: connection.scalar(select(About.value).where(About.key == key)))

    def close(self) -> None:
        """Commit what is queued and let go of the file."""
        self._writer.close()
        self._engine.dispose()


@contextmanager
def reading(root: Path) -> Iterator[ReadIndex]:
    """Open the index of a root for reading only, also while a node writes to it.

    Raises
    ------
    IndexUnusable
        There is none, or it cannot be read.
    """
    path = root.absolute() / FILE_NAME
    if not path.exists():
        raise IndexUnusable(f"no index at {path}: is the root right? `voxelnode db upgrade` makes a new one")
    engine = open_engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            yield ReadIndex(connection)
    except SQLAlchemyError as error:
        raise IndexUnusable(f"{path} cannot be read: {getattr(error, 'orig', error)}") from error
    finally:
        engine.dispose()


class ReadIndex:
    """Queries on the documented views."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """The rows that a query on the views gives; `values` fill its ``:names``."""
        return [dict(row) for row in self._connection.execute(text(query), values).mappings()]

    def count(self, view: str) -> int:
        """How many rows one of the views has."""
        return int(self._connection.execute(text(f'SELECT count(*) FROM "{view}"')).scalar_one())

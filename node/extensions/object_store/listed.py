"""Where files are, by the rows of the index: in the folder, there and owed to the object store, or in it."""

from dataclasses import dataclass

from node.index.look.hosts import IS_ONLY_AT_HOST
from node.index.rows.view_rows import ViewRows

PLACES = ("folder", "spool", "store")


@dataclass(frozen=True, slots=True)
class PlaceCount:
    """The files in one place, and their bytes; of instances, those of the data sets."""

    files: int
    bytes: int


class PlaceViews(ViewRows):
    """The places of the files of instances and of revisions."""

    def count_instances(self) -> dict[str, PlaceCount]:
        """Return the instances in each of `PLACES`. Reads all rows."""
        return self._by_place("images")

    def count_files(self) -> dict[str, PlaceCount]:
        """Return the files of revisions in each of `PLACES`; without an object store, there are none."""
        return self._by_place("revision_files")

    def _by_place(self, table: str) -> dict[str, PlaceCount]:
        place = "coalesce(place, 'folder')"
        counted = f"SELECT {place} AS place, count(*) AS files, sum(bytes) AS bytes FROM {table} GROUP BY {place}"
        counts = {row["place"]: PlaceCount(int(row["files"]), int(row["bytes"])) for row in self._rows(counted)}
        return dict.fromkeys(PLACES, PlaceCount(0, 0)) | counts

    def count_by_holder(self) -> dict[str, int]:
        """Return how many instances are still to be moved to the store from the disk of each host."""
        held = "SELECT spool_host, count(*) AS count FROM images WHERE spool_host IS NOT NULL"
        return self._counts(f"{held} GROUP BY spool_host ORDER BY spool_host")

    def only_host_of(self, key: str) -> str | None:
        """Return which host alone has a file, of several that share an object store."""
        images = f'SELECT spool_host FROM images WHERE "key" = :key AND {IS_ONLY_AT_HOST}'
        files = 'SELECT spool_host FROM revision_files WHERE "key" = :key AND spool_host IS NOT NULL'
        row = self._row(f"{images} UNION ALL {files}", key=key)
        return None if row is None else row["spool_host"]

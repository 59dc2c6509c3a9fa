"""Files of conversions, the instances in them, and exclusions: instances, or some of their frames, in no volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select, union_all
from sqlalchemy.orm import join

from node.index.engine.rows import PagedRepository, Row, columns_of
from node.index.models.history import ConversionRow, ExclusionRow, RevisionFileRow, TrashRow, VolumeRow, VolumeSourceRow
from node.index.models.levels import PatientRow, SeriesRow, StudyRow
from node.index.models.work import ObjectRemovalRow
from node.index.nouns.hosts import REVISION_FILES
from node.index.nouns.level_views import ExclusionViews, VolumeViews
from node.index.nouns.records import RevisionFile


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file of a revision that should exist; `path` is relative to the root."""

    study_instance_uid: str
    series_instance_uid: str
    revision: int
    superseded: bool
    path: str
    bytes: int
    sha256: str
    place: str | None = None  # see `RevisionFileRow`
    holder: str | None = None

    @property
    def key(self) -> str:
        """The name of its object."""
        return self.path

    @property
    def data_set_offset(self) -> int:
        """Where the content begins in the file, as `node.archive.base.ArchivedFile` has it."""
        return 0


class ReadVolumes(PagedRepository, VolumeViews):
    """Rows of ``volumes``, ``v_volumes`` and ``v_sources``; paths are relative to the root."""

    listing = select(
        *VolumeRow.__table__.columns,
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        ConversionRow.revision,
        ConversionRow.superseded,
        ConversionRow.converter,
        ConversionRow.created_at,
        ConversionRow.files_removed_at,
        PatientRow.patient_id,
    ).select_from(join(VolumeRow, ConversionRow).join(SeriesRow).join(StudyRow).join(PatientRow))
    filters = (
        VolumeRow.id,
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        VolumeRow.kind,
        VolumeRow.format,
        ConversionRow.superseded,
    )

    def of_series(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        """Return the rows of ``v_volumes`` of a series, newest revision first."""
        order = "ORDER BY revision DESC, stack, path"
        return self._rows_of_study("SELECT * FROM v_volumes", study_instance_uid, series_instance_uid, order)

    def folder(self, study_instance_uid: str, series_instance_uid: str, revision: int) -> str | None:
        """Return the folder of a revision, relative to the root; None if it has no files, or they were removed."""
        query = (
            select(VolumeRow.path)
            .select_from(join(VolumeRow, ConversionRow).join(SeriesRow).join(StudyRow))
            .where(
                StudyRow.study_instance_uid == study_instance_uid,
                SeriesRow.series_instance_uid == series_instance_uid,
                ConversionRow.revision == revision,
                ConversionRow.files_removed_at.is_(None),
            )
        )
        path = self._connection.execute(query.limit(1)).scalar()
        return path and path.rpartition("/")[0]

    def totals(self, study_instance_uid: str, series_instance_uid: str | None = None) -> Row:
        """Return the numbers of ``files`` and ``bytes`` that a study or a series has and that were not removed."""
        source = "SELECT count(*) AS files, coalesce(sum(bytes), 0) AS bytes FROM v_volumes"
        rest = "AND files_removed_at IS NULL"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest)[0]

    def files(self) -> Iterator[VolumeFile]:
        """Yield every file of a revision that should exist and has a digest, sorted by path.

        Where there is an object store, those are all files; elsewhere, what lies beside a volume is not in the index.
        """
        above = ConversionRow, SeriesRow, StudyRow
        columns = columns_of(VolumeFile, VolumeRow, RevisionFileRow, *above, holder=RevisionFileRow.spool_host)
        volumes = (
            select(*columns)
            .select_from(join(VolumeRow, ConversionRow).join(SeriesRow).join(StudyRow))
            .outerjoin(RevisionFileRow, RevisionFileRow.key == VolumeRow.path)
            .where(ConversionRow.files_removed_at.is_(None))
        )
        beside = (
            select(*columns[:4], *REVISION_FILES.selected_columns)
            .select_from(join(RevisionFileRow, ConversionRow).join(SeriesRow).join(StudyRow))
            .where(
                ~select(VolumeRow.id)
                .where(VolumeRow.path == RevisionFileRow.key, VolumeRow.conversion_id == ConversionRow.id)
                .exists()
            )
        )
        for row in self._connection.execute(union_all(volumes, beside).order_by("path")):
            yield VolumeFile(*row)

    def file_at(self, path: str) -> RevisionFile | None:
        """Return a file of a revision by its path, if its place is noted; see `RevisionFileRow`."""
        row = self._connection.execute(REVISION_FILES.where(RevisionFileRow.key == path)).first()
        return None if row is None else RevisionFile(*row)

    def files_in(self, folder: str) -> list[RevisionFile]:
        """Return the files of a revision by its folder, sorted by name; empty if their places are not noted."""
        inside = RevisionFileRow.key > f"{folder}/", RevisionFileRow.key < f"{folder}0"  # "0" follows "/"
        return [
            RevisionFile(*row)
            for row in self._connection.execute(REVISION_FILES.where(*inside).order_by(RevisionFileRow.key))
        ]

    def unknown_keys(self, keys: Sequence[str]) -> list[str]:
        """Return those of `keys` that neither a revision, nor the trash, nor an order to remove objects names."""
        named = set(self._connection.scalars(select(RevisionFileRow.key).where(RevisionFileRow.key.in_(keys))))
        for row in (ObjectRemovalRow, TrashRow):
            named.update(self._connection.scalars(select(row.key).where(row.key.in_(keys))))
        return [key for key in keys if key not in named]


class ReadSources(PagedRepository):
    """Rows of ``volume_sources``: the instances in the stacks of conversions."""

    listing = select(VolumeSourceRow.__table__)
    filters = (VolumeSourceRow.conversion_id, VolumeSourceRow.stack)


class ReadExclusions(PagedRepository, ExclusionViews):
    """Rows of ``exclusions`` and ``v_exclusions``."""

    listing = select(
        *ExclusionRow.__table__.columns,
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        ConversionRow.revision,
        ConversionRow.superseded,
    ).select_from(join(ExclusionRow, ConversionRow).join(SeriesRow).join(StudyRow))
    filters = (StudyRow.study_instance_uid, SeriesRow.series_instance_uid)

"""What is stored, for whoever asks: C-FIND and QIDO-RS, C-MOVE, C-GET and WADO-RS alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select

from node.index.models import Image, Series, Study


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One stored instance and where its bytes lie: the data set begins at `data_set_offset` of the file `key`."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    number_of_frames: int | None
    key: str
    data_set_offset: int
    bytes: int
    sha256: str


def stored_instances(
    connection: Connection,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uids: Collection[str] = (),
) -> Iterator[StoredInstance]:
    """The instances of a study, of a series or by their UIDs, by Instance Number; unset filters hold for all.

    Instances whose file is known to be missing are left out.
    """
    query = (
        select(
            Study.study_instance_uid,
            Series.series_instance_uid,
            Image.sop_instance_uid,
            Image.sop_class_uid,
            Image.transfer_syntax_uid,
            Image.instance_number,
            Image.number_of_frames,
            Image.key,
            Image.data_set_offset,
            Image.bytes,
            Image.sha256,
        )
        .join(Series, Series.id == Image.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Image.file_missing.is_(False))
        .order_by(Series.id, Image.instance_number, Image.id)
    )
    if study_instance_uid is not None:
        query = query.where(Study.study_instance_uid == study_instance_uid)
    if series_instance_uid is not None:
        query = query.where(Series.series_instance_uid == series_instance_uid)
    if sop_instance_uids:
        query = query.where(Image.sop_instance_uid.in_(list(sop_instance_uids)))
    for row in connection.execute(query):
        yield StoredInstance(*row)

"""Series that come together, such as two field maps: once a study is quiet, it may lack some of them."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Row, select, update

from node.completeness import lacking_companions
from node.index.models.levels import SeriesRow, StudyRow
from node.index.nouns.protocols import digest, image_of, remember, usual_beside
from node.index.nouns.verdicts import judge

_DIRECTION = re.compile(
    r"(?<![a-z])(ap|pa|lr|rl|hf|fh|up|down|fwd|rev|mag|magnitude|pha|phase)(?![a-z])", re.IGNORECASE
)
"""What distinguishes the names of two protocols of one pair."""


def judge_companions(connection: Connection, study_id: int, now: dt.datetime) -> None:
    """Remember how many series of images a quiet study has of each protocol; doubt those of which it has too few.

    Those that were doubted before, and of which the others have come since, are doubted no more.
    """
    study = connection.execute(select(StudyRow.study_instance_uid).where(StudyRow.id == study_id)).scalar_one()
    together: dict[str, list[Row[Any]]] = defaultdict(list)
    of_study = SeriesRow.study_id == study_id, SeriesRow.protocol_name.is_not(None)
    for row in connection.execute(select(SeriesRow.__table__).where(*of_study)):
        if image_of(connection, row.id) is None:
            continue
        name = " ".join(_DIRECTION.sub("", row.protocol_name.lower()).split())
        scanner = row.modality, row.manufacturer, row.manufacturer_model_name, row.station_name
        together[digest(json.dumps(["study", *scanner, name]))].append(row)
    for key, series in together.items():
        usual = usual_beside(connection, key, study, len(series))
        remember(connection, key, study, len(series), now)
        lacking = None
        if usual is not None:
            lacking = [
                lacking_companions(usual, len(series)),
                f"{usual.instances - len(series)} series of this protocol",
            ]
        for row in series:
            if row.state != "converted" or (row.lacking is None) == (lacking is None):
                continue
            if lacking is None or row.verdict == "complete":
                connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(lacking=lacking))
                judge(connection, row.id, now)

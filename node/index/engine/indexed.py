"""The list of attributes without a column that have an index: a fact about the index, the same for all writers.

Each change of the list has a number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, select

from node.dicom.terms import path_of
from node.index.engine.about_keys import INDEXED
from node.index.engine.hot_statements import Prepared
from node.index.models import AboutRow

_FIND_LIST = Prepared(select(AboutRow.value).where(AboutRow.key == bindparam("key")))


@dataclass(frozen=True, slots=True)
class Listed:
    """The list of indexed attributes.

    `since`: for each, the number of the change that added it. `paths`: for each, its names from the outermost sequence
    on.
    """

    number: int
    since: Mapping[str, int]
    paths: Mapping[str, tuple[str, ...]]


def listed(connection: Connection) -> Listed:
    """Return the list; a writer asks for it after it holds the rows of its series."""
    row = _FIND_LIST.execute(connection, {"key": INDEXED}).fetchone()
    return _listed(row[0] if row else '{"number": 0, "since": {}}')


@lru_cache(maxsize=4)
def _listed(text: str) -> Listed:
    value: dict[str, Any] = json.loads(text)
    return Listed(value["number"], value["since"], {name: path_of(name) for name in value["since"]})

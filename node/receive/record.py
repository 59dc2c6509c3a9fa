"""A record of the journal: the facts of the receipt of an instance as JSON, and the DICOM file as it is archived."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import cast

from node.index.nouns.records import ReceivedPolicy


@dataclass(frozen=True, slots=True)
class Receipt:
    """How an instance came, and where it goes.

    `sha256` is of the data set of a large instance, whose bytes lie in a file of their own; empty where the record has
    the bytes. `data_set_offset` and `data_set_bytes` are within the file. `began_at` is the begin of the association,
    None where there is none.
    """

    key: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: dt.datetime
    transfer_syntax_uid: str
    data_set_offset: int
    data_set_bytes: int
    quiet_seconds: float
    overwrite_policy: ReceivedPolicy
    sha256: str = ""
    began_at: dt.datetime | None = None

    def encoded(self) -> bytes:
        """Return the facts of a record."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(facts, default=dt.datetime.isoformat).encode()


def receipt(facts: bytes) -> Receipt | None:
    """Return the receipt that a record of the journal holds; None if its facts are not those of this version."""
    try:
        fields = json.loads(facts)
        for name in ("received_at", "began_at"):
            if (moment := fields.get(name)) is not None:
                fields[name] = dt.datetime.fromisoformat(moment)
        fields["overwrite_policy"] = cast(ReceivedPolicy, fields["overwrite_policy"])
        return Receipt(**fields)
    except (ValueError, KeyError, TypeError):
        return None

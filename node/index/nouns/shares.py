"""Links by which people without an account see a study, or one of its series, for a time: what a caller with one is.

The extension for links has their rows; see `node.registry.SHARES`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Share:
    """A link: what it shows, whether files may be downloaded, and how it was used; `series` is empty for a study.

    `deidentification`: the table [deidentify.NAME] by which everything that it shows is made; None: it shows what was
    received.
    """

    id: int
    study: str
    series: str
    may_download: bool
    deidentification: str | None
    made_by: str
    made_at: dt.datetime
    expires_at: dt.datetime
    uses: int
    used_at: dt.datetime | None


class KnownShares(Protocol):
    """The links of an index."""

    def by_token(self, sha256: str, now: dt.datetime) -> Share | None:
        """Return the link of a token, or None if it is unknown, revoked or over."""

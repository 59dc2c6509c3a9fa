"""What becomes of an instance that was received, decided by what the index has under its SOP Instance UID.

The decision is a pure function; `node.index.rules.intake.received` looks up what it needs, and carries it out.
"""

from dataclasses import dataclass

from node.index.rows.records import Flaw, ReceivedPolicy, StoredFile

NOT_THERE = frozenset({Flaw.MISSING, Flaw.ASIDE, Flaw.DAMAGED})
"""Flaws of a file whose bytes cannot be served: others of the same series take its place."""


@dataclass(frozen=True, slots=True)
class First:
    """The instance that has the UID in the index.

    `holder`: the only host that has its file; see `node.index.rows.sharing`.
    `is_pending`: its row is yet to be inserted: it is of the same batch.
    `is_of_series`: the received one is of the same series by its own UIDs; only asked if the bytes differ.
    `had_digest`: the received bytes have the digest that the row had before `fsck` believed its file; only asked of the
        same series.
    """

    sha256: str
    key: str
    series_id: int
    file_missing: bool = False
    holder: str | None = None
    is_pending: bool = False
    is_of_series: bool = False
    had_digest: bool = False


@dataclass(frozen=True, slots=True)
class New:
    """Nothing has its UID: it gets a row."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The row names this very file: it was applied before."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A file is kept under its UID, and whether that file is whole must be known first."""


@dataclass(frozen=True, slots=True)
class Same:
    """Its bytes are there already. With `is_found`, their file was noted as missing, and is not."""

    first: First
    is_found: bool = False


@dataclass(frozen=True, slots=True)
class Restores:
    """It takes the place of the first one, whose file is not whole."""

    first: First
    flaw: Flaw


@dataclass(frozen=True, slots=True)
class Replaces:
    """It takes the place of the first one: by the policy, because a person has decided so, or, with `is_whole`, because
    it has all its pixels and the first one has not."""

    first: First
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Aside:
    """It has other bytes, and the first one counts. With `is_found` as for `Same`."""

    first: First
    is_found: bool = False


Disposition = New | Applied | Compare | Same | Restores | Replaces | Aside


def disposition(
    received: StoredFile,
    first: First | None,
    flaw: Flaw | None,
    policy: ReceivedPolicy,
    *,
    is_cut: bool = False,
    is_own: bool = False,
    is_compared: bool = True,
) -> Disposition:
    """Decide what becomes of an instance that was received.

    Parameters
    ----------
    first : First or None
        What has its UID in the index.
    flaw : Flaw or None
        Of the file of the first one; None: it is whole.
    policy : ReceivedPolicy
        What happens to other bytes:

        * ``never``, ``keep_both``: the first one counts;
        * ``replace``: the received one does. One that comes again under another series does not: that would remove the
          first one from its series;
        * ``accept``: a person has decided for the received one, in whichever series.

        Whatever it is, a file that is not whole gives way to bytes of the same series, and one that cannot be read to
        the same bytes. If one of two versions of one series lacks pixels that it states, the other one counts, unless
        a person has decided.
    is_cut : bool
        Whether the received one lacks pixels that it states; only known if the bytes differ.
    is_own : bool
        Whether the received one seems to be a copy of the first one that left with a decided identity: the first one
        counts, unless a person has decided.
    is_compared : bool
        Whether somebody has looked for flaws.
    """
    if first is None:
        return New()
    if first.key == received.key:
        return Applied()
    if not is_compared:
        return Compare()
    is_first_cut, flaw = flaw is Flaw.CUT, None if flaw is Flaw.CUT else flaw
    is_found = first.file_missing and flaw is None
    if first.sha256 == received.sha256:
        return Same(first, is_found) if flaw is None else Restores(first, flaw)
    if first.is_of_series and flaw in NOT_THERE:
        return Restores(first, flaw)
    if first.is_of_series and first.had_digest:  # so the file that was believed against that digest is damaged
        return Restores(first, Flaw.DAMAGED)
    if first.is_of_series and is_first_cut and not is_cut and policy != "accept":
        return Replaces(first, is_whole=True)
    is_worse = is_own or (is_cut and flaw is None and not is_first_cut)
    if policy == "accept" or (policy == "replace" and first.is_of_series and not is_worse):
        return Replaces(first)
    return Aside(first, is_found)

"""What is read of hosts and their audit logs, of accounts, and of who sends."""

import datetime as dt
import json
from collections.abc import Iterator

from node.index.rows.records import Client, ListedAccount, ListedSession, ListedToken, Role
from node.index.rows.view_rows import MOMENT, NOW, Newest, PagedViews, Row, ViewRows, moment, timed, written


class AccountViews(ViewRows):
    """Accounts for HTTP."""

    def listed(self) -> list[ListedAccount]:
        """Return all accounts, sorted by name."""
        tokens: dict[int, list[ListedToken]] = {}
        of_project = "SELECT t.*, p.name AS project FROM tokens t LEFT JOIN projects p ON p.id = t.project_id"
        for row in map(timed, self._rows(f"{of_project} ORDER BY t.id")):
            row["role"] = Role[row["role"].upper()] if row["role"] else None
            row["routes"] = tuple((row["routes"] or "").split())
            listed = ListedToken(*(row[name] for name in ListedToken.__match_args__))
            tokens.setdefault(row["account_id"], []).append(listed)
        return [
            ListedAccount(
                row["name"], Role[row["role"].upper()], row["password_hash"] is not None, row["totp_step"] is not None,
                moment(row["created_at"]), tuple(tokens.get(row["id"], ())),
            )
            for row in self._rows("SELECT * FROM accounts ORDER BY name")
        ]  # fmt: skip

    def sessions(self, name: str, now: dt.datetime) -> list[ListedSession]:
        """Return the open sessions of an account, newest first."""
        query = "SELECT s.* FROM web_sessions s JOIN accounts a ON a.id = s.account_id WHERE a.name = :name "
        is_open = f"AND s.expires_at > {self._queries.say(MOMENT, ':now')} ORDER BY s.id DESC"
        return [
            ListedSession(
                row["id"], Client(row["address"] or "", row["agent"] or ""), row["created_at"], row["expires_at"],
                row["used_at"],
            )
            for row in map(timed, self._rows(f"{query}{is_open}", name=name, now=written(now)))
        ]  # fmt: skip

    def projects(self) -> list[str]:
        """Return the names of the projects that who reads may see, in order."""
        return [row["name"] for row in self._rows("SELECT name FROM projects ORDER BY name")]


CHUNK_ROWS = 1000

_SHOWN = (
    "name", "roles", "version", "started_at", "seen_at", "is_behind", "not_ready", "left_behind", "clock_ahead_seconds",
    "problems",
)  # fmt: skip
IS_ONLY_AT_HOST = "spool_host IS NOT NULL AND NOT file_missing"


class HostViews(ViewRows):
    """Rows of ``hosts`` and ``leases``, and the lines of their audit logs."""

    def all(self, now: dt.datetime) -> list[Row]:
        """Return every host by name, with what it alone does; empty if only one can write to the index.

        Its ``state`` is alive, draining, stopped, or lost, if it has said nothing for as long as its lease;
        ``not_ready`` why it is not ready, as it said last, by role; ``spooled_instances`` those whose files it alone
        has, because they have not been moved to the object store; ``left_behind`` those that only its disk had when it
        stopped, None if it was not counted; ``problems`` what of it was not as the others have it, when it was seen, by
        ``clock_differs`` and ``configuration_differs``.
        """
        counts = self._counts(f"SELECT spool_host, count(*) FROM images WHERE {IS_ONLY_AT_HOST} GROUP BY spool_host")
        leases: dict[str, list[str]] = {}
        for row in self._rows("SELECT * FROM leases ORDER BY name"):
            leases.setdefault(row["host"], []).append(row["name"])
        return [
            {
                **{name: row[name] for name in _SHOWN},
                "state": _state(row, now),
                "leases": leases.get(row["name"], []),
                "spooled_instances": counts.get(row["name"], 0),
            }
            for row in self._hosts()
        ]

    def _hosts(self) -> list[Row]:
        objects = "roles", "not_ready", "problems"
        return [
            timed(row) | {name: json.loads(row[name]) for name in objects} | {"is_behind": bool(row["is_behind"])}
            for row in self._rows("SELECT * FROM hosts ORDER BY name")
        ]

    def living(self) -> list[Row]:
        """Return the hosts that are alive by the clock of the index."""
        return [host for host in self.all(self.now()) if host["state"] in ("alive", "draining")]

    def problems(self) -> dict[str, str]:
        """Return what hosts that live do not agree about, in words, by the names of the problems."""
        found: dict[str, str] = {}
        now = self.now()
        for host in self._hosts():
            for problem, why in host["problems"].items() if _state(host, now) in ("alive", "draining") else ():
                found[problem] = "; ".join(filter(None, [found.get(problem), f"host {host['name']}: {why}"]))
        return found

    def spooling(self) -> list[str]:
        """Return the hosts that alone have files, because these are not in the object store yet."""
        images = f"SELECT spool_host FROM images WHERE {IS_ONLY_AT_HOST}"
        rows = self._rows(f"{images} UNION SELECT spool_host FROM revision_files WHERE spool_host IS NOT NULL")
        return sorted(row["spool_host"] for row in rows)

    def now(self) -> dt.datetime:
        """Return the time by the clock of the index."""
        return moment(self._value(f"SELECT {self._queries.say(NOW)}"))

    def hosts(self) -> list[str]:
        """Return the hosts that have copied lines, by name."""
        return [row["host"] for row in self._rows("SELECT DISTINCT host FROM audit_lines ORDER BY host")]

    def newest(self, count: int, host: str, *, others: bool = False) -> list[tuple[str, str]]:
        """Return the last lines, of one host, or of all others, by their times, oldest first: (host, line)."""
        of_host = f"host {'<>' if others else '='} :host ORDER BY at DESC, host, number DESC LIMIT :count"
        rows = self._rows(f"SELECT host, line FROM audit_lines WHERE {of_host}", host=host, count=count)
        return [(row["host"], row["line"]) for row in rows][::-1]

    def count_of_others(self, host: str) -> int:
        """Count the lines of all hosts but one."""
        return self._number("SELECT count(*) FROM audit_lines WHERE host <> :host", host=host)

    def of_host(self, host: str) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of each line of a host, oldest first."""
        rows: list[Row] = [{"number": 0}] * CHUNK_ROWS
        behind = f"host = :host AND number > :last ORDER BY number LIMIT {CHUNK_ROWS}"
        while len(rows) == CHUNK_ROWS:
            last = rows[-1]["number"]
            rows = self._rows(f"SELECT number, line FROM audit_lines WHERE {behind}", host=host, last=last)
            yield from ((row["number"], f"{row['line']}\n".encode()) for row in rows)


def _state(row: Row, now: dt.datetime) -> str:
    if row["lease_until"] is None:
        return "stopped"
    if moment(row["lease_until"]) <= now:
        return "lost"
    return "alive" if row["drain"] is None else "draining"


LAST_IMAGES = 50_000
"""Newest images that are looked at for what came lately, since no index has their times: read in 0.1 s."""

_LATELY = (
    "FROM (SELECT coalesce(calling_ae_title, source) AS sender, peer, received_at, bytes FROM images ORDER BY id DESC "
    f"LIMIT {LAST_IMAGES}) newest WHERE received_at >= {{0}} AND received_at < {{1}}"
)


class SenderViews(PagedViews):
    """Rows of ``v_senders``, what they sent lately, and what was refused of them, which is what a page has."""

    listing = "SELECT * FROM rejections"

    def all(self) -> list[Row]:
        """Return all rows of ``v_senders``, by AE title."""
        return self._rows("SELECT * FROM v_senders ORDER BY calling_ae_title")

    def received(self, since: dt.datetime, until: dt.datetime) -> list[tuple[dt.datetime, int]]:
        """Return when each of the last images was received, and its bytes."""
        rows = self._lately("SELECT received_at, bytes", since, until)
        return [(moment(row["received_at"]), row["bytes"]) for row in rows]

    def heard(self, since: dt.datetime, until: dt.datetime) -> list[tuple[str, str, dt.datetime, int]]:
        """Return AE title, address, last time and number of images of who sent the last images, the earliest first.

        What came otherwise than by an association has its source, such as ``import``, for the AE title.
        """
        found = "SELECT sender, peer, max(received_at) AS last_at, count(*) AS count"
        rows = self._lately(found, since, until, "GROUP BY sender, peer ORDER BY 3")
        return [(row["sender"], row["peer"] or "", moment(row["last_at"]), row["count"]) for row in rows]

    def _lately(self, select: str, since: dt.datetime, until: dt.datetime, rest: str = "") -> list[Row]:
        lately = _LATELY.format(*(self._queries.say(MOMENT, name) for name in (":since", ":until")))
        return self._rows(f"{select} {lately} {rest}", since=written(since), until=written(until))

    def newest(self, limit: int, skip: int = 0) -> Newest:
        """Return at most `limit` rows of ``v_rejections``, last refusal first."""
        query = "SELECT * FROM v_rejections"
        rows = self._rows(f"{query} ORDER BY last_at DESC LIMIT :limit OFFSET :skip", limit=limit, skip=skip)
        return self._with_total(rows, 0 if skip else limit, query)  # what was skipped counts, too

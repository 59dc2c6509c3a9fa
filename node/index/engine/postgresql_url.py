"""What ``[index] url`` says of the servers of PostgreSQL, as far as can be told without a connection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from node.index.engine.backend import IndexUnusable

_ADDRESS = ("host", "hostaddr", "port")

_WORDS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "primary"),  # libpq has more, with which no node can write
    "channel_binding": ("disable", "prefer", "require"),
}
_NUMBERS = (
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
_NAME = re.compile(r"[a-z_]+|\W")
"""What a message of libpq may quote: a name, or a character of the syntax."""

_FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl")


def mistakes_in(url: str) -> list[str]:
    """Return what is wrong with ``[index] url`` as sentences, as far as can be told without a connection."""
    try:
        parameters = parameters_of(url)
        addresses = addresses_of(parameters)
    except IndexUnusable as error:
        return [str(error)]
    found = [
        f"port = {port!r} is no number from 1 to 65535"
        for port in (address.get("port") for address in addresses)
        if port and not (port.isdecimal() and 0 < int(port) < 1 << 16)
    ]
    for name, words in _WORDS.items():
        if parameters.get(name, words[0]) not in words:
            found.append(f"{name} = {parameters[name]!r} must be {', '.join(words[:-1])} or {words[-1]}")
    for name in _NUMBERS:
        if re.fullmatch(r"-?\d+", value := str(parameters.get(name, 0))) is None:
            found.append(f"{name} = {value!r} is no whole number")
    for name in _FILES:
        if (file := parameters.get(name)) is not None and (name, file) != ("sslrootcert", "system"):
            found += _mistakes_in_file(name, file)
    return [f"[index] url: {mistake}" for mistake in found]


def _mistakes_in_file(name: str, file: str) -> Iterator[str]:
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
    except OSError as error:
        yield f"{name} = {file!r} cannot be read ({error.strerror}): correct the path"
        return
    if name == "passfile" and mode & 0o077:
        yield f"passfile = {file!r} may be read by others, and libpq ignores it: run `chmod 600 {file}`"


def parameters_of(url: str) -> dict[str, Any]:
    """Return the parameters that libpq finds in a URL.

    Raises
    ------
    IndexUnusable
        libpq finds a mistake. Its message quotes names only: other text may be a password in the wrong place.
    """
    try:
        return conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
    except psycopg.ProgrammingError as error:
        reason = re.sub(r'"([^"]*)"', lambda quoted: quoted[0] if _NAME.fullmatch(quoted[1]) else '"..."', str(error))
        raise IndexUnusable(f"[index] url: {reason.strip()}") from error


def addresses_of(parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the parameters that differ between the servers, which have lists of them, for each.

    Raises
    ------
    IndexUnusable
        The lists differ in length.
    """
    lists = {name: str(parameters[name]).split(",") for name in _ADDRESS if name in parameters}
    length = max(map(len, lists.values()), default=1)
    if any(len(some) not in (1, length) for some in lists.values()):
        counts = " and ".join(f"{len(some)} of {name}" for name, some in lists.items())
        raise IndexUnusable(f"[index] url has {counts}: give each server one, or all the same")
    columns = [list(islice(cycle(some), length)) for some in lists.values()]
    return [dict(zip(lists, one, strict=True)) for one in zip(*columns, strict=True)] or [{}]

"""What all tables of the configuration have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sized
from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

AETitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")
]
"""An AE title, PS3.5 6.2: 1 to 16 characters, no backslash, no control characters; surrounding spaces are removed."""

PeerTitle = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -~\u00a1-\u00ac\u00ae-\u00ff]+$"
    ),
]
"""The AE title of another device, which may have a backslash and Latin-1: real devices have such."""


def _host(text: str) -> str:
    if port := re.fullmatch(r"([^\s/:@]+):(\d+)", text):
        raise ValueError(f'has a port: write host = "{port[1]}" and port = {port[2]}')
    if re.search(r"[\s/:@]", text):
        with suppress(ValueError):
            ip_address(text)
            return text
        raise ValueError('must be a name or an address, such as "10.1.2.7"')
    return text


def _hours(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError('must be two times of a day, such as "20:00-06:00"')
    return text


Hours = Annotated[str, AfterValidator(_hours)]
"""Hours in which something may happen, in the time zone of the machine."""

Host = Annotated[str, AfterValidator(_host)]
"""The name or the address of a machine; its port is a key of its own."""

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Days = Annotated[float, Field(gt=0, le=36525)]
HookName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def table_of(annotation: Any) -> Any:
    """Return the type of the tables of a section: its own, or that of the tables with names in it, [peers.CT1]."""
    table = get_args(annotation)[1] if get_origin(annotation) is dict else annotation
    return get_args(table)[0] if get_origin(table) is Annotated else table  # one of several kinds


class SettingsSection(BaseModel):
    """A table of the configuration: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``""``, which is this folder as a path and every address as a host; a default may be empty.

        A list or a table that restricts is unset by default: an empty one, from which each name has vanished, is not
        "all".
        """
        field = cls.model_fields[str(info.field_name)]
        is_empty = value == "" or (field.default is None and isinstance(value, Sized) and len(value) == 0)
        if is_empty and field.default != "":
            raise ValueError("is empty" if field.is_required() else "is empty; leave it out for the default")
        return value

    @model_validator(mode="after")
    def _breaks_no_rule(self) -> Self:
        if mistakes := list(self._mistakes()):
            raise ValueError("\n".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        """Yield a line for each rule between keys that the values break."""
        return iter(())

"""``[query]`` of the configuration."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from node.settings.section import SettingsSection


def _name(text: str) -> str:
    """Return the name of an indexed attribute in documents; see `node.dicom.terms`."""
    # Here: every command reads settings, and few name an attribute.
    from node.dicom.attributes import COLUMN_TAGS
    from node.dicom.documents import MATCHED_VRS, PIXELS, private_name, standard_name, vr_of

    if private := re.fullmatch(r"\(?([0-9A-Fa-f]{4}),([^,]{1,64}),([0-9A-Fa-f]{2})\)?", text):
        group = int(private[1], 16)
        if group % 2 and group < PIXELS:
            return private_name(group, private[2].strip(), int(private[3], 16))
        raise ValueError(f"{text}: the group of a private element is odd")
    parts = text.split(".")
    tags = [_tag(part) for part in parts]
    if len(tags) == 1 and tags[0] in COLUMN_TAGS:
        raise ValueError(f"{text} has a column, and needs no other index")
    for part, tag in zip(parts[:-1], tags, strict=False):
        if vr_of(tag) != "SQ":
            raise ValueError(f"{text}: {part} is not a sequence")
    vr = vr_of(tags[-1])
    if vr == "SQ":
        raise ValueError(f"{text} is a sequence: name an attribute of its items, such as {text}.CodeValue")
    if vr in ("TM", "DT") or (vr and vr not in MATCHED_VRS):
        raise ValueError(f"{text}: an index has no values of VR {vr}")
    return ".".join(map(standard_name, tags))


def _tag(text: str) -> int:
    from node.dicom.values import standard_tag

    if hexadecimal := re.fullmatch(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?", text):
        return int(hexadecimal[1] + hexadecimal[2], 16)
    try:
        return standard_tag(text)
    except KeyError:
        raise ValueError(f"{text} is not a keyword of DICOM, a tag GGGGEEEE or GGGG,CREATOR,EE") from None


class QuerySettings(SettingsSection):
    """[query]: attributes by which C-FIND, QIDO-RS and REST find instances quickly."""

    indexed: tuple[Annotated[str, Field(max_length=100), AfterValidator(_name)], ...] = Field(
        (),
        description='Attributes that get an index, such as ["InstitutionName", "ProcedureCodeSequence.CodeValue"] '
        "(docs/query.md).",
    )

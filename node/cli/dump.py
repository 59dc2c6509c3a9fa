"""``voxelnode dump``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Root, load
from node.cli.output import print_json, printable
from node.errors import UsageError

if TYPE_CHECKING:
    from node.dicom.dump import Element

SHOWN_CHARACTERS = 200
"""Of a value in text; TSV and JSON have all of it."""

_UID = re.compile(r"[0-9.]{1,64}")


class Format(StrEnum):
    """How a header is printed."""

    TEXT = "text"
    TSV = "tsv"
    JSON = "json"


def dump(
    what: Annotated[str, typer.Argument(metavar="FILE|UID", help="A file, or the SOP Instance UID of a stored one.")],
    format: Annotated[
        Format, typer.Option("--format", "-f", help="One line an element, a table, or JSON.")
    ] = Format.TEXT,
    config: ConfigFile = None,
    root: Root = None,
) -> None:
    """Print the header of one instance: every element, but of pixels and other binary values only the length."""
    path = Path(what)
    if not path.is_file():
        path = _stored(what, config, root)

    from node.dicom.dump import dump as dumped

    with path.open("rb") as file:
        found = dumped(file)
    if format is Format.JSON:
        print_json({"path": path, "elements": _as_json(found.elements), "error": found.error})
    elif format is Format.TSV:
        print("place\tvr\tkeyword\tcreator\tvalue\tlength\terror")
        for row in _rows(found.elements, ""):
            print("\t".join(row))
    else:
        for line in _lines(found.elements, ""):
            print(line)
    if found.error:
        if format is not Format.JSON:
            typer.echo(f"voxelnode: {path}: {found.error}", err=True)
        raise typer.Exit(1)


def _stored(uid: str, config: Path | None, root: Path | None) -> Path:
    """The file of a stored instance."""
    if not _UID.fullmatch(uid):
        raise UsageError(f"{uid}: neither a file nor a SOP Instance UID")
    folder: Path = load(config, storage__root=root).settings.storage.root

    from node.index.database import reading

    with reading(folder) as index:
        rows = index.rows("SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=uid)
    if not rows:
        raise UsageError(
            f"{uid}: no stored instance has this SOP Instance UID, and no file this name (--root tells where)"
        )
    return Path(rows[0]["path"])


def _lines(elements: Sequence[Element], indent: str) -> Iterator[str]:
    for one in elements:
        creator = f" [{printable(one.creator)}]" if one.creator else ""
        yield f"{indent}{one.tag} {one.vr or '--'}{creator} {printable(one.keyword) or '?'}{_value(one)}"
        for number, item in enumerate(one.items, 1):
            yield f"{indent}  item {number}"
            yield from _lines(item, f"{indent}    ")


def _value(one: Element) -> str:
    """What stands behind the name of an element."""
    told = ""
    if one.values:
        shown = _joined(one)
        cut = len(shown) > SHOWN_CHARACTERS
        told = f" = {shown[:SHOWN_CHARACTERS]}" + (f"... ({len(one.values)} values)" if cut else "")
    elif one.length is not None:
        told = f" <{one.length} bytes>"
    return f"{told} !! {one.error}" if one.error else told


def _rows(elements: Sequence[Element], place: str) -> Iterator[Sequence[str]]:
    """Cells of each element; a place in a sequence is told like ``(0008,1140)[1](0008,1155)``."""
    for one in elements:
        length = "" if one.length is None else str(one.length)
        names = (one.vr, printable(one.keyword), printable(one.creator))
        yield (place + one.tag, *names, _joined(one), length, one.error or "")
        for number, item in enumerate(one.items, 1):
            yield from _rows(item, f"{place}{one.tag}[{number}]")


def _as_json(elements: Sequence[Element]) -> list[dict[str, Any]]:
    """Elements as JSON; what an element has not is left out."""
    rows = []
    for one in elements:
        row: dict[str, Any] = {"tag": one.tag, "vr": one.vr, "keyword": one.keyword, "creator": one.creator}
        row |= {"values": list(one.values), "length": one.length, "error": one.error}
        row = {name: each for name, each in row.items() if each not in ("", None, [])}
        if one.vr == "SQ":
            row["items"] = [_as_json(item) for item in one.items]
        rows.append(row)
    return rows


def _joined(one: Element) -> str:
    return printable("\\".join(map(str, one.values)))

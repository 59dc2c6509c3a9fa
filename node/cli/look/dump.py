"""``voxelnode dump``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import Json, Root
from node.cli.output import print_json, printable
from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from node.dicom.dump import Dump, DumpedElement

MAX_NAMES = 3
"""UIDs of one element that are named."""

SHOWN_CHARACTERS = 200
"""Maximum length of a value in the text; JSON has values in full."""

_UID = re.compile(r"[0-9.]{1,64}")


def dump(
    file_or_uid: Annotated[
        str, typer.Argument(metavar="FILE|UID", help="A file, or the SOP Instance UID of a stored instance.")
    ],
    *,
    root: Root,
    json: Json = False,
) -> None:
    """Print the header of a file or of a stored instance.

    Every element is printed; pixel data and other binary values are printed as their length. Exit 1 if the file is
    damaged.
    """
    path = Path(file_or_uid)
    if path.is_file():
        header = _dumped(path)
    else:
        path, header = _of_stored(file_or_uid, root)
    if json:
        print_json({"path": path, "elements": _as_json(header.elements), "error": header.error})
    else:
        for line in _lines(header.elements, ""):
            print(line)
    if header.error:
        if not json:
            typer.echo(f"voxelnode: {path}: {header.error}", err=True)
        raise typer.Exit(1)


def _of_stored(uid: str, root: Root) -> tuple[Path, Dump]:
    """Return the path of a stored instance in the archive, and its header, which is fetched if it is elsewhere."""
    if not _UID.fullmatch(uid):
        raise UsageError(f"{uid}: neither a file nor a SOP Instance UID")
    with root.looking() as index:
        file = index.instances.current(uid)
    if file is None:
        raise UsageError(f"{uid}: no stored instance has this SOP Instance UID and no file has this name; check --root")
    path = root.folder / file.key
    with root.files() as local:
        try:
            return path, _dumped(local(file))
        except FileNotFoundError:
            raise VoxelnodeError(f"{path} is missing: run `voxelnode fsck`") from None


def _dumped(path: Path) -> Dump:
    from node.dicom.lean_import import load_names

    load_names()

    from node.dicom.dump import dump as dumped

    with path.open("rb") as file:
        return dumped(file)


def _lines(elements: Sequence[DumpedElement], indent: str) -> Iterator[str]:
    for element in elements:
        creator = f" [{printable(element.creator)}]" if element.creator else ""
        keyword = printable(element.keyword) or "?"
        yield f"{indent}{element.tag} {element.vr or '--'}{creator} {keyword}{_value(element)}"
        for number, item in enumerate(element.items, 1):
            yield f"{indent}  item {number}"
            yield from _lines(item, f"{indent}    ")


def _value(element: DumpedElement) -> str:
    """Return the text after the name of an element."""
    text = ""
    if element.values:
        shown = printable("\\".join(map(str, element.values)))
        cut = len(shown) > SHOWN_CHARACTERS
        text = f" = {shown[:SHOWN_CHARACTERS]}" + (f"... ({len(element.values)} values)" if cut else "")
        text += _names(element)
    elif element.length is not None:
        text = f" <{element.length} bytes>"
    return f"{text} !! {element.error}" if element.error else text


def _names(element: DumpedElement) -> str:
    """Return the names of UIDs that the standard registers (PS3.6 Annex A), in brackets."""
    if element.vr != "UI":
        return ""
    from node.dicom.uids import registered_name

    names = [name for uid in element.values[:MAX_NAMES] if (name := registered_name(str(uid))) is not None]
    return f" ({', '.join(names)})" if names else ""


def _as_json(elements: Sequence[DumpedElement]) -> list[dict[str, Any]]:
    """Return elements as JSON, without empty fields."""
    rows = []
    for element in elements:
        row: dict[str, Any] = {
            "tag": element.tag,
            "vr": element.vr,
            "keyword": element.keyword,
            "creator": element.creator,
            "values": list(element.values),
            "length": element.length,
            "error": element.error,
        }
        row = {name: value for name, value in row.items() if value not in ("", None, [])}
        if element.vr == "SQ":
            row["items"] = [_as_json(item) for item in element.items]
        rows.append(row)
    return rows

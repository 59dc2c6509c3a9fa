"""What an earlier version kept in the index becomes a drop-in."""

from __future__ import annotations

from pathlib import Path

from node.errors import UsageError
from node.index.care.former_rows import former_tables
from node.settings.files import pages_file, with_table, write_file
from node.settings.model import Settings


def export(settings: Settings, index: Path) -> tuple[list[str], list[str]]:
    """Write the tables that an index has to the drop-in of the pages; return those, and what a file has already.

    Raises UsageError for every mistake in them; then nothing is written.
    """
    sources, file = settings.loaded_from, pages_file(settings.storage.root.absolute())
    text = file.read_text() if file.is_file() else ""
    written, left_out = [], []
    for table, keys in former_tables(index):
        if (other := sources.file_of(table)) is not None:
            left_out.append(f"[{table}], which is in {other}")
        else:
            text = with_table(text, table, keys)
            written.append(table)
    if written:
        if sources.reread is not None:
            sources.reread({file.resolve(): text.encode()})
        try:
            write_file(file, text)
        except OSError as error:
            raise UsageError(f"{file} cannot be written ({error.strerror})") from error
    return written, left_out

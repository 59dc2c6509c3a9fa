"""The part of rsync that the documents use."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Rsync:
    """A copy that takes its time: it lists a folder, others write (`meanwhile`), and then it copies what it listed."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def __call__(self, arguments: list[str]) -> None:
        excluded = {arguments[at + 1] for at, word in enumerate(arguments) if word == "--exclude"}
        paths = [word for word in arguments if not word.startswith("-") and word not in excluded]
        *sources, target = paths
        for source in sources:
            inside = source.endswith("/")
            self._copy(Path(source), Path(target) if inside else Path(target, Path(source).name), excluded)

    def _copy(self, source: Path, target: Path, excluded: set[str]) -> None:
        target.mkdir(exist_ok=True)
        listed = sorted(entry for entry in source.iterdir() if not any(entry.match(pattern) for pattern in excluded))
        self._meanwhile()
        for entry in listed:
            if entry.is_dir():
                self._copy(entry, target / entry.name, excluded)
            elif entry.is_file():
                with suppress(FileNotFoundError):  # it has vanished since: rsync warns and goes on
                    shutil.copy2(entry, target / entry.name)

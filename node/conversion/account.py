"""What became of each file of a conversion: every file that was found has one fate, and the sums are as many."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from node.conversion.found_series import FolderSeries
from node.conversion.job import Converted
from node.volume.reasons import Exclusion, Reason, Refusal

USED, EXCLUDED, DUPLICATE, REFUSED, WITHOUT_IMAGE = "used", "excluded", "duplicate", "refused", "without_image"
NOT_CHOSEN, SKIPPED = "not_chosen", "skipped"

FATES = USED, EXCLUDED, DUPLICATE, REFUSED, WITHOUT_IMAGE, NOT_CHOSEN, SKIPPED
"""What may become of a file. A duplicate has the content of a file that is used or excluded."""


class FilesOfSeries:
    """The files of a series that was converted, as the input calls them."""

    def __init__(self, series: FolderSeries, converted: Converted | Refusal) -> None:
        self._names = series.file_names
        self._converted = converted
        self._paths: dict[str, list[Path]] = defaultdict(list)
        for uid, path in series.instances:
            self._paths[uid].append(path)
        self._apart: set[Path] = set()
        if isinstance(converted, Converted):
            self._apart = {Path(one.file) for one in converted.exclusions if one.file is not None}

    def of(self, sop_instance_uids: Iterable[str]) -> dict[str, list[str]]:
        """Return the ``files`` of instances; of a conversion for nobody, nothing."""
        files = [self._names.get(path) for uid in sop_instance_uids for path in self._whole(uid)]
        return {"files": [name for name in files if name is not None]} if any(files) else {}

    def of_exclusion(self, exclusion: Exclusion) -> dict[str, Any]:
        """Return the ``files`` of an exclusion; of one of several files of an instance, the ``used_file``, or None."""
        uid = exclusion.sop_instance_uid
        if exclusion.file is None:
            return self.of([uid])
        name = self._names.get(Path(exclusion.file))
        used = self._whole(uid)[:1] if self._fates.get(uid) == USED else []
        return {**({} if name is None else {"files": [name]}), "used_file": next(map(self._names.get, used), None)}

    def rows(self) -> list[dict[str, Any]]:
        """Return each file with its name, its fate and the numbers of the stacks that it is in."""
        return [
            {"name": self._names[path], "fate": fate, "stacks": self._stacks.get(uid, []) if fate == USED else []}
            for uid, path, fate in self._each()
            if path in self._names
        ]

    def fates(self) -> Counter[str]:
        """Return how many files have each fate."""
        return Counter(fate for _, _, fate in self._each())

    def _each(self) -> Iterator[tuple[str, Path, str]]:
        for uid, paths in self._paths.items():
            fate = self._fates.get(uid, REFUSED)
            whole = self._whole(uid)
            further = DUPLICATE if fate in (USED, EXCLUDED) else fate
            for path in paths:
                yield uid, path, EXCLUDED if path in self._apart else fate if path == whole[0] else further

    def _whole(self, uid: str) -> list[Path]:
        """Return the files that are not excluded in favour of others of their instance; the first is used."""
        return [path for path in self._paths[uid] if path not in self._apart]

    @cached_property
    def _stacks(self) -> Mapping[str, list[int]]:
        stacks: dict[str, list[int]] = defaultdict(list)
        for stack, uid, _ in self._converted.sources if isinstance(self._converted, Converted) else ():
            stacks[uid].append(stack)
        return stacks

    @cached_property
    def _fates(self) -> Mapping[str, str]:
        """The fate of each instance. Where frames of one have several, it is used, or else refused."""
        if isinstance(self._converted, Refusal):
            return {}
        fates = {one.sop_instance_uid: EXCLUDED for one in self._converted.exclusions if one.file is None}
        for refusal in self._converted.refusals:
            fate = WITHOUT_IMAGE if refusal.reason is Reason.NOT_AN_IMAGE else REFUSED
            fates |= dict.fromkeys(refusal.sop_instance_uids, fate)
        return {**fates, **dict.fromkeys(self._stacks, USED)}

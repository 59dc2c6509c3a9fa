"""The rules of retention that administrators set, beside those of the configuration, which keeps its own.

All rules are confirmed as they are together: whoever changes some sees how many studies would go, and says that number.
If the configuration has other rules than were confirmed, nothing is deleted until somebody confirms them again. What
protects from mistakes, `maximum_share` and `trash_days`, is for the configuration alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from node.control.additions import RULES, merged, owned
from node.counted import counted
from node.errors import UsageError
from node.extensions.administration.additions import Additions, mistake_of
from node.lifecycle.retention import Due, due_now
from node.settings.model import AddedTable, RetentionSettings

TABLE: AddedTable = "retention"
ROW = ""
"""The name of the one row."""


class RetentionChanges:
    """The actions about the rules of retention."""

    def __init__(self, additions: Additions) -> None:
        self._additions, self._settings, self._index = additions, additions.settings, additions.index

    def set_retention(
        self, who: str, rules: Mapping[str, Any], confirmed: int | None = None, seen: str | None = None
    ) -> Mapping[str, Any]:
        """Set the rules that the configuration has not; those that are not given have their defaults.

        `confirmed`: how many studies may be due by them at once; None: none.
        """
        with self._additions.changing:
            self._additions.require_alone(TABLE)
            self._additions.require_seen(TABLE, ROW, "change", seen)
            wanted, due = self._due(rules)
            if not wanted.dry_run:
                _require_confirmed(due, confirmed)
            own = owned(self._settings.own(TABLE))
            kept = {key: value for key, value in shown(wanted).items() if key in rules}
            row = {"rules": kept, "beside": own, "confirmed": 0 if wanted.dry_run else len(due.expired)}
            told = json.dumps(kept, ensure_ascii=False) if kept else "as the configuration has it"
            what = f"retention: {told}; {counted(len(due.expired), 'study', 'studies')} due"
            if rules:
                self._additions.set(TABLE, ROW, row, who, what)
            else:
                self._additions.remove(TABLE, ROW, who, what)
        return {"rules": shown(wanted), "studies": len(due.expired), "bytes": due.bytes}

    def try_retention(self, rules: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return how many studies would be due now if the rules were these, and how many there are."""
        wanted, due = self._due(rules)
        return {"rules": shown(wanted), "studies": len(due.expired), "bytes": due.bytes, "of_studies": due.studies}

    def _due(self, rules: Mapping[str, Any]) -> tuple[RetentionSettings, Due]:
        wanted = effective(self._settings.own(TABLE), rules)
        with self._index.reading() as index:
            return wanted, due_now(index, wanted, self._additions.now())


def effective(own: RetentionSettings, rules: Mapping[str, Any]) -> RetentionSettings:
    """Return all rules if these were set beside the configuration. Raises UsageError for each that is wrong."""
    for key in rules:
        if key not in RULES:
            raise UsageError(f"{key}: is written in the configuration; {', '.join(RULES)} may be set beside it")
        if key in owned(own):
            raise UsageError(f"{key}: the configuration has it, and it is changed there")
    if not isinstance(rules.get("keep_where") or "", str):
        raise UsageError('keep_where: is an expression, such as modality == "MR"')
    try:
        return merged(own, rules)
    except ValidationError as error:
        raise UsageError("\n".join(mistake_of(one, TABLE) for one in error.errors())) from error


def shown(rules: RetentionSettings) -> dict[str, Any]:
    """Return rules as JSON values."""
    return {key: value for key, value in rules.model_dump(mode="json").items() if key in RULES}


def _require_confirmed(due: Due, confirmed: int | None) -> None:
    if len(due.expired) > (confirmed or 0):
        raise UsageError(
            f"{counted(len(due.expired), 'study', 'studies')} of {due.studies} would be due by these rules"
            f"{f', not {confirmed}' if confirmed is not None else ''}: look at them, and confirm that number "
            f"(--confirm {len(due.expired)})"
        )

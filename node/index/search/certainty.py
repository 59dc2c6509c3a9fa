"""The words for the certainty of a verdict, in SQL."""

from __future__ import annotations

from node.completeness import COUNTED_RULES

_COUNTED = ", ".join(f"'{rule}'" for rule in COUNTED_RULES)


def certainty_of(series: str) -> str:
    """Return the SQL expression for `node.completeness.certainty` of a row of ``series``, by the name of the table."""
    return (
        f"CASE WHEN {series}.verdict <> 'complete' THEN {series}.verdict "
        f"WHEN {series}.verdict_rule IN ({_COUNTED}) THEN 'verified' "
        f"WHEN {series}.verdict = 'complete' THEN 'no gap seen' END"
    )

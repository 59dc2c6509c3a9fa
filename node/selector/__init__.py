"""Which series are meant: conditions on the facts of a series, in an expression or as a table.

An expression such as ``modality == "CT" and slices >= 50`` is compiled against the table of fields, so that an unknown
field, a value of another type or an unknown keyword is refused before the first series is looked at. The language has
comparisons, ``and``, ``or``, ``not`` and parentheses, and nothing else: no calls, no arithmetic and no regular
expressions. The time that a match takes therefore grows with the length of the expression alone, and an expression may
come from the network.
"""

from node.selector.expression import (
    MAX_LENGTH,
    Facts,
    Selector,
    WrongSelector,
    clauses_about,
    compile_selector,
    without,
)
from node.selector.fields import FIELDS, NOT_CONVERTED, Field, Group, grid_fields

__all__ = [
    "FIELDS",
    "MAX_LENGTH",
    "NOT_CONVERTED",
    "Facts",
    "Field",
    "Group",
    "Selector",
    "WrongSelector",
    "clauses_about",
    "compile_selector",
    "grid_fields",
    "without",
]

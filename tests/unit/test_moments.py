"""What came after what is told by numbers of rows: every comparison of two stored moments has a reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import node

_MOMENT = re.compile(r"\w+_(at|until|since)\b")
_NOT_STORED = re.compile(r"monotonic|thread_time|_rested_at|_files_at|_revisions_at|MAX_SLEEP_SECONDS")  # or no moment
_IN_SQL = re.compile(r"(?:max|min)\([^()]*_at\)|ORDER BY[^()]*?_at|_at\)? *(?:[<>]=?|=) *\(?[a-z]+\.\w+_at")
_ORDERING = {"max", "min", "sorted", "order_by"}


def names(tree: ast.AST) -> set[str]:
    """The moments that an expression names."""
    found = {one.attr for one in ast.walk(tree) if isinstance(one, ast.Attribute)}
    found |= {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}
    found |= {str(one.value) for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return {name for name in found if _MOMENT.fullmatch(name)}


def compared(tree: ast.AST, function: str = "") -> Iterator[str]:
    """The function of each comparison of two moments."""
    for one in ast.iter_child_nodes(tree):
        inner = one.name if isinstance(one, ast.FunctionDef | ast.ClassDef) else function
        text = ast.unparse(one) if isinstance(one, ast.expr) else ""
        is_sql = isinstance(one, ast.Constant | ast.JoinedStr) and " " in text and _IN_SQL.search(text)
        is_ordering = False
        if isinstance(one, ast.Compare) and not isinstance(one.ops[0], ast.Is | ast.IsNot):
            is_ordering = bool(names(one.left)) and bool(names(one.comparators[0]))
        elif isinstance(one, ast.Call):
            called = one.func.attr if isinstance(one.func, ast.Attribute) else getattr(one.func, "id", "")
            is_ordering = called in _ORDERING and any(names(argument) for argument in one.args)
            is_ordering |= called.startswith("is_") and bool(names(one.func)) and any(map(names, one.args))
        if (is_ordering or is_sql) and not _NOT_STORED.search(text):
            yield inner
        if not isinstance(one, ast.JoinedStr):
            yield from compared(one, inner)


FOR_PEOPLE = "people see these moments, in their order"
WAITS = "a wait: it is moved when the clock is set (`TimerRepository`)"
KEEPS = "an age or an expiry: how long something is kept is a time of the clock"

REASONS = {
    FOR_PEOPLE: """
        look/hosts:heard look/instances:summary look/kept:newest look/kept:naming look/level_views:last_received_at
        look/level_views:last_stored look/level_views:newest look/level_views:retried look/level_views:under_way
        look/problems:alike look/problems:all look/problems:beyond_repair look/problems:causes
        look/problems:first_sender look/problems:newest look/studies:_summaries look/views:_with_what_holds_it
        look/views:deliveries look/views:messages look/views:progress look/views:quiet_to_come look/views:sent_of_study
        look/work:_known look/work:delivered look/work:made rows/views:_of_core
        """,
    WAITS: """
        look/level_views:next_due_at look/studies:oldest_due look/studies:oldest_unconverted
        rules/series/association_ends:_wait_after_end rules/series/claims: rules/series/claims:_due
        rules/series/claims:_first_received_since rules/series/quiet: rules/work/deliveries:next_due_at
        rules/work/ledger:next_due_at rules/work/routes:next_ask_at
        """,
    KEEPS: """
        look/level_views:_stored look/level_views:_stored_study look/level_views:by_age rules/custody/leaving:receipts
        rules/custody/problems:_counted rules/series/conversions:superseded_before
        """,
    "the last of a batch: a host may be late, and its series then waits longer": "rules/series/waits:_later",
    "gaps are times of the clock, and those that it was set back by are none": "rules/series/quiet:learn_gaps",
    "the ledger has the number; a moment alone, of a deletion that a crash keeps from it": "rules/custody/lost:absent",
    "is equal or later than all that it deletes": "rules/custody/deletions:order",
    "equal: the moment is that of the same row": "rules/custody/trash:_bring_conversions look/work:is_own_news",
    "equal: the moment stands for the decision": "rows/models/work:",
}


def test_moments_are_compared_only_for_a_reason() -> None:
    index = Path(node.__file__).parent / "index"
    files = [path for room in (index, index.with_name("conversion")) for path in room.rglob("*.py")]
    found = {
        f"{path.relative_to(index).with_suffix('')}:{function}" if path.is_relative_to(index) else f"{path}:{function}"
        for path in files
        for function in compared(ast.parse(path.read_text(encoding="utf-8")))
    }
    listed = [one for some in REASONS.values() for one in some.split()]
    assert sorted(found) == sorted(listed)

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
        engine/views:_of_core nouns/instances:summary nouns/level_views:last_received_at nouns/level_views:last_stored
        nouns/level_views:newest nouns/level_views:retried nouns/level_views:under_way nouns/problems:alike
        nouns/problems:beyond_repair nouns/problems:causes nouns/problems:first_sender nouns/senders:heard
        nouns/studies:_summaries nouns/views:_with_what_holds_it nouns/views:all nouns/views:deliveries
        nouns/views:messages nouns/views:naming nouns/views:newest nouns/views:progress nouns/views:quiet_to_come
        nouns/views:sent_of_study work/jobs:_known work/jobs:made work/routes:delivered
        """,
    WAITS: """
        nouns/association_ends:_wait_after_end nouns/claim_ends:_first_received_since nouns/level_views:next_due_at
        nouns/series_claims: nouns/series_claims:_due nouns/studies: nouns/studies:oldest_due
        nouns/studies:oldest_unconverted work/deliveries:next_due_at work/ledger:next_due_at work/routes:next_ask_at
        """,
    KEEPS: """
        nouns/conversions:superseded_before nouns/level_views:_stored nouns/level_views:_stored_study
        nouns/level_views:by_age nouns/problems:_counted nouns/retention:receipts
        """,
    "the last of a batch: a host may be late, and its series then waits longer": "nouns/waits:_later",
    "gaps are times of the clock, and those that it was set back by are none": "nouns/senders:learn_gaps",
    "the ledger has the number; a moment alone, of a deletion that a crash keeps from it": "nouns/lost:absent",
    "is equal or later than all that it deletes": "nouns/deletions:order",
    "equal: the moment is that of the same row": "nouns/trash:_bring_conversions work/jobs:is_own_news",
    "equal: the moment stands for the decision": "work/routes:",
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

"""What came after what is told by numbers of rows: every comparison of two stored moments has a reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import node
from node.extensions.worklist.performed_steps import PerformedStepRow
from node.index.rows.models.levels import Utc

STORED = {
    column.name
    for table in PerformedStepRow.metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, Utc) and "_" in column.name
}
_AT_HAND = re.compile(r"\bnow\b|monotonic|MAX_SLEEP_SECONDS")
_IN_SQL = re.compile(r"(?:max|min)\([^()]*_at\)|ORDER BY[^()]*?_at|_at\)? *(?:[<>]=?|=) *\(?[a-z]+\.\w+_at")
_ORDERING = {"max", "min", "sorted", "order_by"}


def names(tree: ast.AST) -> set[str]:
    """The moments that an expression names."""
    found = {one.attr for one in ast.walk(tree) if isinstance(one, ast.Attribute)}
    found |= {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}
    found |= {str(one.value) for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found & STORED


def compared(tree: ast.AST, function: str = "") -> Iterator[str]:
    """The function of each comparison of a moment, but with one at hand."""
    for one in ast.iter_child_nodes(tree):
        inner = one.name if isinstance(one, ast.FunctionDef | ast.ClassDef) else function
        is_sql = isinstance(one, ast.Constant | ast.JoinedStr) and _IN_SQL.search(ast.unparse(one))
        is_ordering = False
        if isinstance(one, ast.Compare) and not isinstance(one.ops[0], ast.Is | ast.IsNot | ast.In | ast.NotIn):
            sides = names(one.left), names(one.comparators[0])
            is_ordering = all(sides) or (any(sides) and not _AT_HAND.search(ast.unparse(one)))
        elif isinstance(one, ast.Call):
            called = one.func.attr if isinstance(one.func, ast.Attribute) else getattr(one.func, "id", "")
            is_ordering = called in _ORDERING and any(names(argument) for argument in one.args)
            is_ordering |= called.startswith("is_") and bool(names(one.func)) and any(map(names, one.args))
        if is_ordering or is_sql:
            yield inner
        if not isinstance(one, ast.JoinedStr):
            yield from compared(one, inner)


FOR_PEOPLE = "people see these moments, in their order"
WAITS = "a wait: it is moved when the clock is set (`TimerRepository`)"
KEEPS = "an age or an expiry: how long something is kept is a time of the clock"

REASONS = {
    FOR_PEOPLE: """
        look/hosts:heard look/hosts:newest look/instances:last_stored look/instances:summary look/kept:newest
        look/kept:naming look/problems:alike look/problems:all look/problems:beyond_repair look/problems:causes
        look/problems:first_sender look/problems:newest look/series:last_received_at look/series:newest
        look/series:retried look/series:under_way look/studies:_summary look/views:_with_what_holds_it
        look/views:deliveries look/views:delivered look/views:messages look/views:progress look/views:quiet_to_come
        look/views:sent_of_study look/work:_with_names look/work:made rows/views:_of_core
        extensions/postgresql/hosts:_problems
        receive/whereabouts:_is_over receive/whereabouts:refused receive/whereabouts:remembered
        """,
    WAITS: """
        look/series:next_due_at look/series:oldest_due
        rules/series/association_ends:_wait_after_end rules/series/claims: rules/series/claims:_due
        rules/series/claims:_first_received_since rules/series/waits: rules/work/deliveries:next_due_at
        rules/work/ledger:next_due_at rules/work/routes:next_ask_at rules/work/routes:owed rules/series/reopening:
        rules/series/reopening:add rules/series/waits:_correct quiet:after_received quiet:end
        extensions/peers/asking:unasked extensions/postgresql/hosts:_series_waiting_for_hosts
        extensions/results/intake:work
        extensions/results/rows:next_due_at routing/worker:_asks_in
        """,
    KEEPS: """
        look/studies:_stored look/studies:_stored_study look/studies:by_age rules/custody/leaving:receipts
        rules/custody/leaving:_is_old_deletion rules/custody/leaving:_is_old_event
        rules/custody/problems:_counted rules/series/conversions:superseded_before rules/work/ledger:add_download
        lifecycle/expired:expired_studies lifecycle/fsck:_unknown_losers extensions/shares/rows:make
        extensions/worklist/performed_steps:remove_old
        """,
    "the last of a batch: a host may be late, and its series then waits longer": "rules/series/reopening:_later",
    "gaps are times of the clock, and those that it was set back by are none": """
        rules/series/waits:learn_gaps rules/series/waits:_longest_gaps
        """,
    "owed, unless the number of the entry says so too": "rules/custody/lost:_covers",
    "is equal or later than all that it deletes": "rules/custody/deletions:order",
    "equal: the moment is that of the same row": "rules/custody/trash:_bring_conversions look/work:is_own_news",
    "equal: the moment stands for the decision": "rows/models/work:",
    "equal: the moment stands for the change, and each has a later one": "extensions/worklist/performed_steps:change",
    "no row has it: of this process, or of a file that was copied": """
        extensions/dicomweb/bursts:note extensions/object_store/remote:_oldest extensions/object_store/remote:trim
        receive/pace:due_at runtime/background:wake web/authenticators:is_due web/sessions:wait_seconds work_loop:step
        """,
}


@pytest.mark.slow
def test_moments_are_compared_only_for_a_reason() -> None:
    folder = Path(node.__file__).parent
    found = {
        f"{path.relative_to(folder).with_suffix('')}:{function}".removeprefix("index/")
        for path in folder.rglob("*.py")
        for function in compared(ast.parse(path.read_text(encoding="utf-8")))
    }
    listed = [one for some in REASONS.values() for one in some.split()]
    assert sorted(found) == sorted(listed)

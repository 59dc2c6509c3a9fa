"""Words are no state: no stored sentence decides by how it begins, by how it ends, or by what is in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Text

import node
from node.index.rows.models.levels import Base, PatientRow, SeriesRow, StudyRow

_NO_SENTENCES = "document identity line text value varying wanted_kinds ended aborted"
_LEVELS = {one.name for row in (PatientRow, StudyRow, SeriesRow) for one in row.__table__.columns}
_TEXTS = {one.name for table in Base.metadata.tables.values() for one in table.columns if isinstance(one.type, Text)}
SENTENCES = _TEXTS - (_LEVELS - {"error", "verdict_reason", "missing_detail", "decided_by"}) - {*_NO_SENTENCES.split()}
_PARTS = {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix", "like", "contains"}


def names(tree: ast.AST) -> set[str]:
    """What an expression names."""
    found = {getattr(one, name, None) for one in ast.walk(tree) for name in ("attr", "id", "value")}
    return {name for name in found if isinstance(name, str)}


def taken_apart(tree: ast.AST, function: str = "") -> Iterator[str]:
    """The function of each part of a sentence that code asks for."""
    for one in ast.iter_child_nodes(tree):
        inner = one.name if isinstance(one, ast.FunctionDef | ast.ClassDef) else function
        asked: ast.AST | None = None
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr in _PARTS:
            asked = one.func.value
        elif isinstance(one, ast.Compare) and isinstance(one.ops[0], ast.In | ast.NotIn):
            asked = one.comparators[0]
        if asked is not None and not isinstance(asked, ast.Tuple) and names(asked) & SENTENCES:
            yield inner
        yield from taken_apart(one, inner)


REASONS = {
    "no row has it: an error at hand, what else has such a name, or a text of the same process": """
        children/decoding:header_of_volume cli/application:_limit_behind cli/run/doctor:_node conversion/evidence:_gaps
        extensions/opened_folder/command:_print extensions/postgresql/servers:reading extensions/results/rows:about
        index/rows/place:unusable index/rows/place:require_sound index/rows/place:unreadable
        index/rows/writer:_note_disk_error index/rows/writer:_reason index/rules/intake/instances:_add
        journal/inspection:inspect receive/readiness:remedy_of web/monitoring:_reason
        """,
    "people see it without what stands beside it, and nothing else is decided": """
        cli/convert/convert:_print_volumes cli/look/info:_print_states conversion/pipeline:_without_remedy
        extensions/administration/pages:_row extensions/bids/command:_print_skipped receive/whereabouts:_order
        receive/whereabouts:refused volume/derived:without_advice
        """,
}


@pytest.mark.slow
def test_no_sentence_decides_but_where_a_reason_is_listed() -> None:
    folder = Path(node.__file__).parent
    found = {
        f"{path.relative_to(folder).with_suffix('')}:{function}"
        for path in folder.rglob("*.py")
        for function in taken_apart(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == {name for listed in REASONS.values() for name in listed.split()}

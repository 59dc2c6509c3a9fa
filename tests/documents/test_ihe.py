"""The integration statement: each transaction has a test that exists."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_each_transaction_that_is_claimed_names_a_test_that_there_is() -> None:
    rows = re.findall(
        r"^\| ((?:RAD|ITI)-\d[^|]*)\|[^|]*\|([^|]*)\|$", (TOP / "docs/project/ihe.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 20
    for transaction, test in rows:
        named = re.fullmatch(r" `(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)` ", test)
        assert f"def {named[2]}(" in (TOP / named[1]).read_text(), transaction

"""What a version promises is kept by the next one, or the changelog names it (docs/upgrade.md)."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.surface import DIGEST, KEPT, PUBLIC, ROOT, broken, surface


@pytest.mark.slow
@pytest.mark.sqlite("the types of columns are those of SQLite")
def test_what_is_gone_or_narrower_than_in_the_last_release_is_named_by_the_changelog(tmp_path: Path) -> None:
    kept, now = json.loads(KEPT.read_text()), surface(tmp_path)
    assert hashlib.sha256(KEPT.read_bytes()).hexdigest() == DIGEST.read_text(), "restore tests/surface.json"
    newest = re.split(r"^## \[", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1]
    named = "".join(re.findall(r"^### (?:Changed|Removed)\n(.*?)(?=^### |\Z)", newest, flags=re.MULTILINE | re.DOTALL))
    unnamed = {name: why for name, why in broken(kept, now).items() if f"`{name}`" not in named}
    assert unnamed == {}, "the last release has this: keep it, or name it in CHANGELOG.md (docs/upgrade.md)"
    if ".dev" not in PUBLIC:
        assert kept == {"release": PUBLIC, **now}, "a release keeps its surface: run python -m tests.surface"


A, B, TEXT = "/enum[a]", "/enum[b]", "/type=string"


@pytest.mark.parametrize(
    ("of", "before", "after", "is_less"),
    [
        ("commands", {"x --a": ["/default=1"]}, {}, True),
        ("commands", {"x --a": ["/default=1"]}, {"x --a": ["/default=2"]}, True),
        ("commands", {"x": []}, {"x": [], "x --b": ["/required[yes]"]}, True),
        ("commands", {"x": []}, {"x": [], "x --b": [], "y --b": ["/required[yes]"]}, False),
        ("requests", {"Body.a": [A, B]}, {"Body.a": [A]}, True),
        ("requests", {"Body.a": [A]}, {"Body.a": [A, B]}, False),
        ("requests", {"Body.a": [TEXT]}, {"Body.a": [A, TEXT]}, True),
        ("requests", {"Body.a": [TEXT]}, {"Body.a": ["/maxLength=9", TEXT]}, True),
        ("requests", {"Body": []}, {"Body": ["/required[a]"]}, True),
        ("answers", {"One.a": [f"/anyOf[string]{TEXT}"]}, {"One.a": [f"/anyOf[string]{TEXT}", "/anyOf[null]"]}, True),
        ("answers", {"One.a": [A], "One": []}, {"One.a": [A, B], "One": ["/required[a]"]}, False),
    ],
)  # fmt: skip
def test_less_or_more_that_is_needed_is_refused_and_an_addition_is_not(
    of: str, before: dict[str, list[str]], after: dict[str, list[str]], is_less: bool
) -> None:
    assert bool(broken({of: before}, {of: after})) is is_less

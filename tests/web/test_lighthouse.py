"""What Lighthouse thinks of the pages; axe and the weight of pages are looked at in test_pages, in every gate."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import make
from tests.interop.conftest import NODE_MODULES
from tests.web.conftest import Site, open_site
from tests.web.pages import ARGUMENTS, CHROMIUM

LIGHTHOUSE = NODE_MODULES / ".bin/lighthouse"
LEAST = 0.95
TRIES = 3
"""The machine may be busy: the best of some runs counts."""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with more studies than a page shows, and pictures of the newest ones."""
    if not LIGHTHOUSE.exists() or not Path(CHROMIUM).exists():
        pytest.skip("lighthouse or chromium-headless-shell is not installed")
    site = open_site(tmp_path_factory.mktemp("many") / "root")
    site.take(*(make.instance(PatientID=f"P{number}", Rows=None) for number in range(40)))
    for number in range(20):
        site.take(*make.ct_series(3, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1", PatientID=f"C{number}"))
    site.convert()
    yield site
    site.close()


@pytest.mark.parametrize("path", ["/", "/problems", "/status", "/studies/1.2.3"])
def test_a_page_is_quick_light_and_accessible(many: Site, tmp_path: Path, path: str) -> None:
    scores: dict[str, float] = {}
    for _ in range(TRIES):
        report = measured(many.url + path, tmp_path / "report.json")
        for name, category in report["categories"].items():
            scores[name] = max(scores.get(name, 0), category["score"])
        if min(scores.values()) >= LEAST:
            break
    assert scores["performance"] >= LEAST
    assert scores["accessibility"] >= LEAST
    assert report["audits"]["total-byte-weight"]["numericValue"] < 60_000


def measured(url: str, report: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The report of one run on a page."""
    command = [
        str(LIGHTHOUSE),
        url,
        "--quiet",
        "--no-enable-error-reporting",
        "--preset=desktop",
        "--only-categories=performance,accessibility",
        "--output=json",
        f"--output-path={report}",
        f"--chrome-flags=--headless {' '.join(ARGUMENTS)}",
    ]
    environment = {**os.environ, "CHROME_PATH": CHROMIUM, "HOME": str(report.parent)}
    subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    content: dict[str, dict[str, dict[str, float]]] = json.loads(report.read_text())
    return content

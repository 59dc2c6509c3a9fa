"""What each page weighs, how many requests it takes, and what Lighthouse thinks of it.

    python benchmarks/pages.py [--no-lighthouse]

serves a root with 60 studies and looks at each page with an empty cache.  Bytes are those that pass the network, with
headers.  A page of a series is measured until its volume is shown; the volume is given by itself.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import make  # noqa: E402
from tests.web.conftest import Site, open_site  # noqa: E402
from tests.web.pages import ARGUMENTS, CHROMIUM, WIDE  # noqa: E402
from tests.web.test_lighthouse import measured  # noqa: E402

SERIES = "/studies/1.2.3/series/1.2.3.1"
PATHS = (
    "/",
    "/studies/1.2.3",
    SERIES,
    "/queue",
    "/worklist",
    "/problems",
    "/routes",
    "/work",
    "/peers",
    "/upload",
    "/status",
)
TABLES = {"peers": {"ARCHIVE": {"ae_title": "ARCHIVE", "host": "127.0.0.1"}}}


def fill(site: Site) -> None:
    """Bring 60 studies in, of which 20 have a volume."""
    site.take(*(make.instance(PatientID=f"P{number}", Rows=None) for number in range(40)))
    for number in range(20):
        site.take(*make.ct_series(3, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1", PatientID=f"C{number}"))
    site.convert(120)


def weigh(page: Page, url: str) -> tuple[int, int, int]:
    """Return the requests of a page, their bytes without those of a volume, and the bytes of the volume."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    urls: dict[str, str] = {}
    bytes_of: dict[str, int] = {}
    session.on("Network.requestWillBeSent", lambda event: urls.setdefault(event["requestId"], event["request"]["url"]))
    session.on(
        "Network.loadingFinished", lambda event: bytes_of.update({event["requestId"]: int(event["encodedDataLength"])})
    )
    page.goto(url)
    if "/series/" in url:
        page.wait_for_selector("#viewer[data-shown]")
    page.wait_for_load_state("networkidle")
    volume = sum(count for request, count in bytes_of.items() if ".nii" in urls.get(request, ""))
    return len(bytes_of), sum(bytes_of.values()) - volume, volume


def main(has_lighthouse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = open_site(Path(folder) / "root", TABLES)
        try:
            fill(site)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            print(f"{'page':24}{'requests':>9}{'kB':>7}{'volume kB':>11}{'performance':>13}{'accessibility':>15}")
            for path in PATHS:
                page = browser.new_context(viewport=WIDE).new_page()
                requests, weight, volume = weigh(page, site.url + path)
                page.context.close()
                line = f"{path[-22:]:24}{requests:9}{weight / 1000:7.0f}{volume / 1000:11.0f}"
                if has_lighthouse:
                    scores = measured(site.url + path, Path(folder) / "report.json")["categories"]
                    line += (
                        f"{100 * scores['performance']['score']:13.0f}{100 * scores['accessibility']['score']:15.0f}"
                    )
                print(line, flush=True)
            browser.close()
        finally:
            site.close()


if __name__ == "__main__":
    main("--no-lighthouse" not in sys.argv)

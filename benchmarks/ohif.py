"""How long a person waits for OHIF to open a CT: until the first picture is seen, and until the last frame is there.

    npm pack @ohif/app@3.13.2
    python benchmarks/ohif.py ohif-app-3.13.2.tgz [--instances 500] [--rounds 3] [--before CHECKOUT ...]

A CT of 512 x 512, as `frames.py` makes it, is opened in Chromium, each time with an empty cache: once with frames that
nobody has asked for, and then, in turns, with frames that were asked for before, from the node of this checkout, from
those of others, and from a program that only replays what the node has answered: what OHIF takes itself. Browser and
node share the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import processor  # noqa: E402
from benchmarks.frames import written  # noqa: E402
from benchmarks.receive import node, send  # noqa: E402
from tests.programs import free_port  # noqa: E402
from tests.web.pages import ARGUMENTS, CHROMIUM  # noqa: E402

SECONDS = 600.0
SCROLL_SECONDS = 0.5
"""Who sees no new frame for so long scrolls to the next slice."""

FRAMES = """
    const names = performance.getEntriesByType("resource").map(one => one.name);
    return new Set(names.filter(name => name.includes("/frames/"))).size;
"""
"""How many frames the page has received."""

ENDED = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})
"""Headers that are of a connection."""


def opened(browser: Browser, url: str, study: str, count: int) -> tuple[float, float]:
    """Open a study; return the seconds until its first picture and until its last frame.

    OHIF loads two frames, and the rest when somebody scrolls; who waits for more scrolls on.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script("performance.setResourceTimingBufferSize(10000)")
    began = time.perf_counter()
    page.goto(f"{url}/ohif/viewer?StudyInstanceUIDs={study}")
    canvas = page.locator("canvas.cornerstone-canvas").first
    canvas.wait_for(timeout=SECONDS * 1000)
    while not is_seen(canvas.screenshot(timeout=SECONDS * 1000)):
        if time.perf_counter() - began > SECONDS:
            raise SystemExit(f"no picture after {SECONDS:.0f} s")
        page.wait_for_timeout(20)
    first, scrolled, had = time.perf_counter() - began, 0.0, 0
    canvas.hover()
    while (frames := page.evaluate(f"() => {{{FRAMES}}}")) < count:
        now = time.perf_counter()
        if frames > had:
            had, scrolled = frames, now
        elif now - scrolled > SCROLL_SECONDS:
            page.keyboard.press("ArrowDown")
            scrolled = now
        if now - began > SECONDS:
            raise SystemExit(f"{frames} of {count} frames after {SECONDS:.0f} s")
        page.wait_for_timeout(50)
    last = time.perf_counter() - began
    context.close()
    return first, last


def is_seen(png: bytes) -> bool:
    """Return whether the middle of a canvas shows more than text or one colour."""
    with Image.open(BytesIO(png)) as picture:
        grey = np.asarray(picture.convert("L"))
    height, width = grey.shape
    return len(np.unique(grey[height // 3 : -height // 3, width // 3 : -width // 3])) > 10


@contextmanager
def replaying(url: str) -> Iterator[str]:
    """Serve what a node has answered, by path and Accept; what was not asked for yet is asked for once."""
    kept: dict[tuple[str, str], tuple[int, list[tuple[str, str]], bytes]] = {}
    client = httpx2.Client(base_url=url, timeout=SECONDS)

    class Replayed(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            key = self.path, self.headers.get("Accept", "")
            if key not in kept:
                answer = client.get(self.path, headers={"Accept": key[1], "Accept-Encoding": "identity"})
                headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in ENDED]
                kept[key] = answer.status_code, headers, answer.content
            status, headers, body = kept[key]
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Replayed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "sent").mkdir()
        paths = written(folder / "sent", arguments.instances)
        study = paths[0].split("/")[3]
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        found: dict[str, list[tuple[float, float, float]]] = {}
        urls: dict[str, tuple[str, int | None]] = {}

        def measure(label: str, url: str, process: int | None) -> None:
            before = processor.seconds(process) if process else 0.0
            first, last = opened(browser, url, study, arguments.instances)
            used = processor.seconds(process) - before if process else 0.0
            found.setdefault(label, []).append((first, last, used))
            print(f"{label:30} {first:6.1f} s {last:6.1f} s {used:6.1f} s", file=sys.stderr)

        for checkout in (ROOT, *(one.absolute() for one in arguments.before)):
            root, web = folder / f"root{len(urls)}", free_port()
            port, served = stack.enter_context(node(root, "1", checkout, VOXELNODE_WEB__PORT=str(web)))
            command = [sys.executable, "-m", "node", "viewers", "install", "ohif", "--root", str(root)]
            subprocess.run(
                [*command, "--from", str(arguments.package.absolute())],
                cwd=checkout,
                env=os.environ | {"PYTHONPATH": str(checkout)},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            send([folder / "sent"], [port], "1")
            urls[checkout.name] = f"http://127.0.0.1:{web}", served.pid
        for label, (url, process) in urls.items():
            measure(f"{label}, for the first time", url, process)
        first_url = urls[ROOT.name][0]
        urls["replayed"] = stack.enter_context(replaying(first_url)), None
        opened(browser, urls["replayed"][0], study, arguments.instances)
        for _ in range(arguments.rounds):
            for label, (url, process) in urls.items():
                measure(label, url, process)
        print(f"{'':30} {'picture':>9} {'all frames':>10} {'processor':>10}")
        for label, rows in found.items():
            first, last, used = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"{label:30} {first:7.1f} s {last:8.1f} s {used:8.1f} s")


if __name__ == "__main__":
    main()

"""What the list of studies asks while somebody types, for `scale.py`: letter by letter, by each order, filter and page.

Beside the time until the rows are there, it prints the processor time that the node used for them, which other work on
the machine changes less.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2 as httpx

ROOT = Path(__file__).resolve().parents[1]

AIM_MS = 100
ROUNDS = 5
RATE, SECONDS = 100, 20
HEADERS = {"HX-Request": "true"}

TYPED = {
    "a name": "schröder, anna",
    "a patient ID": "p012345",
    "an accession number": "a77777",
    "nothing that is there": "qqqq",
}
FILTERS: Mapping[str, dict[str, str | list[str]]] = {
    "first page": {},
    "modality": {"modalities": ["PT"]},
    "two modalities": {"modalities": ["PT", "SR"]},
    "a month": {"first_date": "2024-03-01", "last_date": "2024-03-31"},
    "verified": {"condition": "verified"},
    "no gap seen": {"condition": "no-gap-seen"},
    "incomplete": {"condition": "incomplete"},
    "refused": {"condition": "refused"},
    "receiving or converting": {"condition": "open"},
    "description": {"description": "series 29"},
    "description that is nowhere": {"description": "qqqq"},
    "a common label": {"label": "checked"},
    "a rare label": {"label": "phase 2"},
    "a rare label, by name": {"label": "phase 2", "order": "name"},
    "a label that is nowhere": {"label": "phase 3"},
    "a letter, by name": {"words": "a", "order": "name"},
    "a letter, a modality and a state": {"words": "a", "modalities": ["CT"], "condition": "verified"},
    **{
        f"by {order}{' reversed' if reverse else ''}": {"order": order, "reverse": reverse}
        for order in ("received", "date", "name", "patient-id", "accession", "description")
        for reverse in ("", "on")
    },
}


def processor_ms(pid: int) -> float:
    """Milliseconds of a processor that the threads of a process have used."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def asked(client: httpx.Client, form: Mapping[str, str | list[str]]) -> float:
    """Milliseconds until the rows are there."""
    began = time.perf_counter()
    response = client.post("/", data={key: value for key, value in form.items() if value}, headers=HEADERS)
    response.raise_for_status()
    return 1000 * (time.perf_counter() - began)


def typed(text: str) -> Iterator[str]:
    for end in range(1, len(text) + 1):
        yield text[:end]


def report(client: httpx.Client, pid: int) -> None:
    """Print the worst of the letters, and the median of each filter, with the processor time of a request."""
    worst = 0.0
    for what, text in TYPED.items():
        used = processor_ms(pid)
        times = [(min(asked(client, {"words": part}) for _ in range(3)), part) for part in typed(text)]
        used = (processor_ms(pid) - used) / (3 * len(times))
        slowest, part = max(times)
        worst = max(worst, slowest)
        print(f"{what + ', letter by letter':44} worst {slowest:6.0f} ms, at {part!r}; processor {used:.0f} ms")
    for what, form in FILTERS.items():
        used = processor_ms(pid)
        median = sorted(asked(client, form) for _ in range(ROUNDS))[ROUNDS // 2]
        used = (processor_ms(pid) - used) / ROUNDS
        worst = max(worst, median)
        print(f"{what:44}       {median:6.0f} ms, processor {used:.0f} ms")
    print(f"worst {worst:.0f} ms, the aim is {AIM_MS} ms")


def ask_while_receiving(web: str, port: int) -> None:
    """Print how long somebody who types waits while instances arrive at an even pace."""
    command = [sys.executable, str(ROOT / "benchmarks/paced.py"), str(port), str(RATE), str(SECONDS)]
    with (
        httpx.Client(base_url=web, timeout=60) as client,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender,
    ):
        time.sleep(2.0)  # until it sends
        times = []
        while sender.poll() is None:
            times += [asked(client, {"words": part}) for part in typed(TYPED["a name"])]
        assert sender.stdout is not None
        reported = sender.stdout.read().strip()
    print(f"while receiving {reported}: median {sorted(times)[len(times) // 2]:.0f} ms, worst {max(times):.0f} ms")


def asked_badges(client: httpx.Client) -> float:
    began = time.perf_counter()
    client.get("/badges").raise_for_status()
    return 1000 * (time.perf_counter() - began)

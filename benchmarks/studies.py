"""How long the list of studies takes to answer somebody who types, among 100 000 studies.

    python benchmarks/studies.py [FOLDER] [--postgresql]

makes the index in FOLDER (unless it is there) or in a folder of its own, without files of instances, serves it or a
copy of it in a PostgreSQL server of its own, and asks as the page does: letter by letter, by each order, filter and
page.  Then it asks again while instances arrive.  Beside the time until the rows are there, it prints the processor
time that the node used for them, which other work on the machine changes less.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2 as httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.query import (  # noqa: E402
    NUMBERS,
    arguments,
    emptied,
    insert_instances,
    insert_studies,
    served,
)

PATIENTS, STUDIES, SERIES, INSTANCES = 60_000, 100_000, 300_000, 900_000
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
    "suspect or incomplete": {"condition": "incomplete"},
    "without volume": {"condition": "refused"},
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


def fill(path: Path) -> None:
    """Make an index as large as asked for; the values depend on the numbers of the rows alone."""
    with emptied(path) as connection:
        insert_studies(connection, PATIENTS, STUDIES)
        connection.execute(
            f"""
            INSERT INTO series (id, study_id, series_instance_uid, modality, series_number, series_description, state,
                verdict, verdict_rule, last_received_at, receptions, revision, attempts)
            {NUMBERS.format(SERIES)}
            SELECT i, 1 + (i - 1) * {STUDIES} / {SERIES}, '1.2.826.0.2.' || i,
                CASE WHEN i % 3 = 2 THEN 'SR' WHEN i / 3 % 3 = 0 THEN 'CT' WHEN i / 3 % 3 = 1 THEN 'MR' ELSE 'PT' END,
                1 + i % 3, 'Series ' || (i % 300),
                CASE WHEN i % 3 = 2 THEN 'not-an-image' WHEN i % 5003 = 0 THEN 'refused' ELSE 'converted' END,
                CASE WHEN i % 997 = 0 THEN 'incomplete' ELSE 'complete' END,
                CASE WHEN i % 997 = 0 OR i % 7 < 4 THEN 'geometry' ELSE 'headers' END,
                '2026-01-01 12:00:00.000000', 1, 1, 0 FROM n
            """
        )
        insert_instances(connection, SERIES, INSTANCES)
        connection.execute(
            f"""
            INSERT INTO conversions (id, series_id, revision, superseded, converter, options, instances, seconds,
                created_at)
            {NUMBERS.format(SERIES)} SELECT i, i, 1, 0, 'voxelnode', '{{}}', 3, 1, '2026-01-01 12:00:00.000000'
            FROM n WHERE i % 3 <> 2
            """
        )
        connection.execute(
            """
            INSERT INTO volumes (conversion_id, stack, suffix, kind, format, path, shape, spacing_mm, dtype, geometry,
                instances, warnings, bytes, sha256)
            SELECT id, 0, '', kind, format, printf('volumes/%d/%d/1/%s', id, id, name), '[512,512,3]', '[1,1,1]',
                'int16', 'regular', 3, '[]', 1000, '' FROM conversions, (
                    SELECT 'volume' AS kind, 'nifti' AS format, 'volume.nii.gz' AS name
                    UNION ALL SELECT 'thumbnail', 'png', 'volume_thumbnail.png')
            """
        )
        connection.execute(
            """
            INSERT INTO failures (series_id, revision, reason, detail, failed_at)
            SELECT id, 1, CASE state WHEN 'refused' THEN 'bad-geometry' ELSE 'not-an-image' END, 'x',
                '2026-01-01 12:00:00.000000' FROM series WHERE state <> 'converted'
            """
        )
        connection.execute(
            """
            INSERT INTO labels (study_instance_uid, series_instance_uid, label, given_by, given_at)
            SELECT study_instance_uid, '', CASE id % 3 WHEN 0 THEN 'checked' ELSE 'phase 2' END, 'somebody',
                '2026-01-01 12:00:00.000000' FROM studies WHERE id % 3 = 0 OR id % 5000 = 1
            """
        )


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


def main(root: Path, *, is_in_postgresql: bool) -> None:
    with served(root, fill, is_in_postgresql=is_in_postgresql) as (node, web, _):
        assert node.process is not None
        with httpx.Client(base_url=web, timeout=60) as client:
            page = client.get("/")
            print(f"the page has {len(page.content)} bytes; badges {asked_badges(client):.0f} ms")
            report(client, node.process.pid)
            command = [sys.executable, str(ROOT / "benchmarks/paced.py"), str(node.port), str(RATE), str(SECONDS)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
                time.sleep(2.0)  # until it sends
                times = []
                while sender.poll() is None:
                    times += [asked(client, {"words": part}) for part in typed("schröder, anna")]
                assert sender.stdout is not None
                reported = sender.stdout.read().strip()
            print(
                f"while receiving {reported}: median {sorted(times)[len(times) // 2]:.0f} ms, worst {max(times):.0f} ms"
            )


def asked_badges(client: httpx.Client) -> float:
    began = time.perf_counter()
    client.get("/badges").raise_for_status()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    folder, is_in_postgresql = arguments(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        main(folder or Path(temporary), is_in_postgresql=is_in_postgresql)

"""How long after a series became quiet its volumes are written: ``python benchmarks/quiet.py``.

A node is started and receives three series, each after the volumes of the one before. Each time counts from the moment
at which the series was due to the row of its conversion, of which `conversion` was in the child; the first one shows
what a child costs that has to be started.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.association.client.addresses import Address  # noqa: E402
from node.index.rows.place import FILE_NAME  # noqa: E402
from tests import make  # noqa: E402
from tests.acceptance.served import Served  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402
from tests.protocol.conftest import Raw, associate_rq  # noqa: E402

QUIET_SECONDS = 4.0
DEADLINE_SECONDS = 120.0
LOOK_SECONDS = 0.05
CONVERTED = (
    "SELECT c.created_at, c.seconds, s.last_received_at FROM conversions AS c JOIN series AS s ON s.id = c.series_id "
    "ORDER BY c.id"
)


def ct(slices: int, side: int = 512) -> list[Dataset]:
    pixels = np.random.default_rng(0).integers(0, 2000, (slices, side, side)).astype(np.int16)
    return make.ct_series(slices, rows=side, columns=side, pixels=pixels)


RELEASE_REQUEST = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))


def send(port: int, series: list[Dataset]) -> None:
    with Raw(Address("VOXELNODE", "127.0.0.1", port)) as peer:
        peer.send(associate_rq())
        peer.receive()
        for number, ds in enumerate(series):
            if (status := peer.store(ds.SOPInstanceUID, data_set_bytes(ds), number % 65535 + 1)) != 0:
                raise SystemExit(f"answered 0x{status:04X}")
        peer.send(RELEASE_REQUEST)
        peer.receive()


def converted(root: Path, count: int) -> list[tuple[str, float, str]]:
    """Wait for `count` conversions."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(root / FILE_NAME)) as index:
            if len(rows := index.execute(CONVERTED).fetchall()) == count:
                return rows
        time.sleep(LOOK_SECONDS)
    raise SystemExit(f"{count} conversions: {rows}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--slices", type=int, nargs="+", default=[1, 400])
    arguments.add_argument("--side", type=int, default=512, help="rows and columns of a slice")
    given = arguments.parse_args()
    for slices in given.slices:
        with tempfile.TemporaryDirectory(prefix="quiet-") as folder:
            root = Path(folder) / "root"
            variables = {"VOXELNODE_SERIES__QUIET_SECONDS": str(QUIET_SECONDS), "VOXELNODE_WEB__ENABLED": "false"}
            with Served(root, **variables) as node:
                for count in range(1, 4):
                    send(node.port, ct(slices, given.side))
                    rows = converted(root, count)
            waits = [
                (datetime.fromisoformat(created) - datetime.fromisoformat(received)).total_seconds() - QUIET_SECONDS
                for created, _, received in rows
            ]
            print(
                json.dumps(
                    {
                        "slices": slices,
                        "seconds_from_quiet": [round(wait, 2) for wait in waits],
                        "conversion": [round(seconds, 2) for _, seconds, _ in rows],
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Send a given number of instances a second, evenly, over four associations.

    python benchmarks/paced.py PORT RATE SECONDS

prints how many were answered a second, and the median and the 95th percentile of what an answer takes.
"""

from __future__ import annotations

import socket
import statistics
import sys
import threading
import time
from pathlib import Path

from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.association.client.addresses import Address  # noqa: E402
from tests.crash.journal import Sent, new_series  # noqa: E402
from tests.protocol.conftest import Raw  # noqa: E402

ASSOCIATIONS, SERIES_LENGTH = 4, 200


def series() -> list[Sent]:
    """A series of instances of 9 KB; UIDs are of one length, so that another one takes the place of the first."""
    [one] = new_series(1, large=True)
    made = []
    series_uid = generate_uid()[: len(one.series_instance_uid)].ljust(len(one.series_instance_uid), "1")
    for _ in range(SERIES_LENGTH):
        uid = generate_uid()[: len(one.sop_instance_uid)].ljust(len(one.sop_instance_uid), "1")
        data = one.data.replace(one.sop_instance_uid.encode(), uid.encode())
        made.append(Sent(series_uid, uid, data.replace(one.series_instance_uid.encode(), series_uid.encode())))
    return made


def send(port: int, every: float, until: float, seconds: list[float]) -> None:
    """Send over one association, one instance `every` so many seconds, and note what each answer took."""
    with Raw(Address("VOXELNODE", "127.0.0.1", port)) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.associate()
        due, number, instances = time.perf_counter(), 0, series()
        while (now := time.perf_counter()) < until:
            if now < due:
                time.sleep(due - now)
            one = instances[number % SERIES_LENGTH]
            began = time.perf_counter()
            assert peer.store(one.sop_instance_uid, one.data, number % 65535 + 1) == 0x0000
            seconds.append(time.perf_counter() - began)
            number, due = number + 1, due + every
            if number % SERIES_LENGTH == 0:
                instances = series()


def main(port: int, rate: float, duration: float) -> None:
    seconds: list[float] = []
    began = time.perf_counter()
    every = ASSOCIATIONS / rate
    senders = [
        threading.Thread(target=send, args=(port, every, began + duration, seconds)) for _ in range(ASSOCIATIONS)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    rate = len(seconds) / (time.perf_counter() - began)
    slow = statistics.quantiles(seconds, n=20)[-1]
    print(
        f"{rate:.0f} a second, answered in {1000 * statistics.median(seconds):.1f} ms, 95 of 100 in {1000 * slow:.1f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))

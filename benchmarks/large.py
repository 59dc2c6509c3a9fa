"""Instances of gigabytes: does the node take them, how fast, and in how much memory?

    python benchmarks/large.py [--gigabytes N] [--at-once N] [--folder FOLDER]

The node runs as it does at a site.  Raw senders stream instances whose pixel data are zeros, in PDUs of 128 KB, each
over an association of its own.  Needs as much free disk; all of it is given back.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import voxelnode  # noqa: E402
from node.association.client.addresses import Address  # noqa: E402
from tests.make import instance  # noqa: E402
from tests.protocol.conftest import Raw, c_store_rq, data_set_bytes, p_data, pdv, status_of  # noqa: E402

FRAGMENT_BYTES = (1 << 17) - 6


def memory(process_id: int, key: str) -> int:
    """A line of /proc/PID/status, in megabytes."""
    lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--at-once", type=int, default=1, help="so many instances of this size")
    parser.add_argument("--folder", help="where the archive lies meanwhile")
    options = parser.parse_args()
    size = int(options.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(prefix="voxelnode-benchmark-", dir=options.folder) as temporary:
        with voxelnode(Path(temporary), "1") as receiver, ThreadPoolExecutor(options.at_once) as senders:
            [port], [process_id] = receiver.ports, receiver.processes
            before = memory(process_id, "VmRSS")
            began = time.perf_counter()
            statuses = set(senders.map(lambda _: send(port, size), range(options.at_once)))
            seconds = time.perf_counter() - began
            peak = memory(process_id, "VmHWM")
        stored = sum(path.stat().st_size for path in Path(temporary).rglob("*.dcm"))
    reported = " and ".join(f"0x{status:04X}" for status in sorted(statuses))
    print(f"status {reported}, {stored} bytes at rest, {seconds:.1f} s, {stored / seconds / 1e6:.0f} MB/s")
    print(f"memory of the node: {before} MB before, {peak} MB at its peak")


def send(port: int, size: int) -> int:
    """Send an instance; return its status."""
    ds = instance(BitsAllocated=1, NumberOfFrames=1)
    peer = Raw(Address("VOXELNODE", "127.0.0.1", port), 600)
    with peer.associate():
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 0, data_set_bytes(ds))))
        for value_bytes in elements(size):
            send_element(peer, *value_bytes)
        peer.send(p_data(pdv(1, 2, b"")))
        return status_of(peer.receive())


def elements(size: int) -> list[tuple[int, int, int]]:
    """Group, element and length of what fills `size` bytes: overlays, then the pixel data.

    Explicit VR: a length of undefined size is for encapsulated data only, and OV has 32 bits too.  Beyond 4 GiB an
    instance holds several elements; Pixel Data goes last.
    """
    largest = 0xFFFFFFFE
    overlays = []
    while size > largest:
        overlays.append((0x6000 + 2 * len(overlays), 0x3000, largest))
        size -= largest
    return [*overlays, (0x7FE0, 0x0010, size & ~1)]


def send_element(peer: Raw, group: int, element: int, length: int) -> None:
    peer.send(p_data(pdv(1, 0, struct.pack("<HH2s2xL", group, element, b"OW", length))))
    fragment = p_data(pdv(1, 0, bytes(FRAGMENT_BYTES)))
    whole, rest = divmod(length, FRAGMENT_BYTES)
    for _ in range(whole):
        peer.send(fragment)
    if rest:
        peer.send(p_data(pdv(1, 0, bytes(rest))))


if __name__ == "__main__":
    main()

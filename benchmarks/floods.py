"""How much memory a node has under floods of strangers and of its users: its own process, and its children.

    python benchmarks/floods.py [--seconds 15] [--only FLOOD ...]

One node with every port, HTTP over TLS, takes one flood after the other. The figures are proportional set sizes: pages
that processes share count once. A flood ends after its time, or when all its requests are answered.
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import socket
import sqlite3
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import cycle
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import node  # noqa: E402
from node.control.repository import Repository  # noqa: E402
from node.dicom.encoding import file_head  # noqa: E402
from node.index.rules.people.accounts import Role  # noqa: E402
from node.settings.core import Storage  # noqa: E402
from node.settings.model import Settings  # noqa: E402
from node.web.credentials import digest, new_token  # noqa: E402
from tests import make  # noqa: E402
from tests.programs import free_port  # noqa: E402
from tests.protocol.conftest import associate_rq, data_set_bytes, make_keys  # noqa: E402
from tests.protocol.test_hl7 import written  # noqa: E402

STOW = 'multipart/related; type="application/dicom"; boundary=b'
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def of(process: int, *, children: bool) -> int:
    """Return the proportional set size of a process, or of all below it, in bytes."""
    total = 0
    with suppress(OSError):
        if not children:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                total += of(int(child), children=False) + of(int(child), children=True)
    return total


class Floods:
    """A node, and what floods do with it; each returns when it is over."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.keys, self.token = make_keys(folder), new_token()
        self.web, self.hl7, self.dicom = free_port(), free_port(), 0
        self.answers: Counter[str] = Counter()
        store = Repository(Settings(storage=Storage(root=folder / "root", reserve_bytes=0)))
        now = dt.datetime.now(dt.UTC)
        store.index.accounts.set("writer", Role.WRITE, None, now)
        store.index.accounts.add_token("writer", self.token[-8:], digest(self.token), None, now)
        store.close()

    def environment(self) -> dict[str, str]:
        return {
            "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
            "VOXELNODE_WEB__PORT": str(self.web),
            "VOXELNODE_WEB__AUTHENTICATION": "always",
            "VOXELNODE_WEB__TLS_CERTIFICATE": str(self.keys / "server.pem"),
            "VOXELNODE_WEB__TLS_KEY": str(self.keys / "server.key"),
            "VOXELNODE_WORKLIST__HL7_PORT": str(self.hl7),
            "VOXELNODE_WORKLIST__HL7_NETWORKS": '["127.0.0.0/8"]',
        }

    def ask(self, path: str, body: bytes | None = None, kind: str = STOW, *, known: bool = True) -> None:
        """Send a request over a connection of its own, and read the answer to its end."""
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.web, timeout=120, context=context)
        headers = {"Authorization": f"Bearer {self.token}"} if known else {}
        try:
            connection.request(
                "POST" if body else "GET", path, body, headers | ({"Content-Type": kind} if body else {})
            )
            answer = connection.getresponse()
            while answer.read(1 << 16):
                pass
            self.answers[str(answer.status)] += 1
        except (OSError, http.client.HTTPException) as error:
            self.answers[type(error).__name__] += 1
        finally:
            connection.close()

    def by(self, count: int, ask: Callable[[], None], *, once: bool = False) -> None:
        """Have callers ask at once, again and again until the time is over."""
        until = time.monotonic() + self.seconds

        def call() -> None:
            ask()
            while not once and time.monotonic() < until:
                ask()

        threads = [threading.Thread(target=call) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def message(self, instances: list[Dataset]) -> bytes:
        parts = []
        for ds in instances:
            file = BytesIO()
            ds.save_as(file, enforce_file_format=True)
            parts.append(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file.getvalue() + b"\r\n")
        return b"".join(parts) + b"--b--\r\n"

    # The floods

    def stow_of_small_parts(self) -> None:
        """4 callers send 500 instances of 2 KB in a request; this is what the next ones ask for."""
        lock = threading.Lock()

        def send() -> None:
            with lock:
                message = self.message([make.ct_series(1, rows=16, columns=16)[0] for _ in range(500)])
            self.ask("/dicom-web/studies", message)

        self.ask("/dicom-web/studies", self.message(make.ct_series(40, rows=512, columns=512, study_uid="1.2.3")))
        self.by(4, send)

    def handshakes(self) -> None:
        """40 TLS handshakes a second are begun, from one address, and never go on."""
        held: list[socket.socket] = []
        for _ in range(int(40 * self.seconds)):
            with suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", self.web), 2))
                held[-1].sendall(HELLO)
            time.sleep(1 / 40)
        for one in held:
            one.close()

    def orders(self) -> None:
        """64 HL7 orders wait for one writer, because another program has locked the index."""
        lock = sqlite3.connect(self.folder / "root" / "index.sqlite", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        senders = [socket.create_connection(("127.0.0.1", self.hl7), 10) for _ in range(64)]
        for sender in senders:
            sender.sendall(b"\x0b" + written() + b"\x1c\x0d")
        time.sleep(self.seconds)
        lock.execute("ROLLBACK")
        lock.close()
        for sender in senders:
            sender.settimeout(60)
            with suppress(OSError):
                self.answers["AA" if b"|AA|" in sender.recv(4096) else "other"] += 1
            sender.close()

    def logins(self) -> None:
        """160 forms with a name and a password are sent at once."""
        form = b"name=writer&password=correct+horse+battery"
        kind = "application/x-www-form-urlencoded"
        self.by(160, partial(self.ask, "/login", form, kind, known=False), once=True)

    def bombs(self) -> None:
        """6 callers ask for metadata, a frame, a picture and the header of 0.9 MB that are 900 MB inflated."""
        [ds] = make.ct_series(1)
        del ds.PixelData
        deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        bomb = file_head(ds.SOPClassUID, ds.SOPInstanceUID, DeflatedExplicitVRLittleEndian)
        bomb += deflate.compress(data_set_bytes(ds) + struct.pack("<HH2s2xL", 0x7FE0, 0x10, b"OW", 900_000_000))
        bomb += b"".join(deflate.compress(bytes(1_000_000)) for _ in range(900)) + deflate.flush()
        self.ask("/dicom-web/studies", b"--b\r\nContent-Type: application/dicom\r\n\r\n" + bomb + b"\r\n--b--\r\n")
        series = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
        instance = f"/dicom-web{series}/instances/{ds.SOPInstanceUID}"
        paths = cycle((f"{series}/header", f"{instance}/metadata", f"{instance}/frames/1", f"{instance}/rendered"))
        self.by(6, lambda: self.ask(next(paths)))

    def associations(self) -> None:
        """200 associations are idle."""
        held = [socket.create_connection(("127.0.0.1", self.dicom), 10) for _ in range(200)]
        for one in held:
            one.sendall(associate_rq())
        time.sleep(self.seconds)
        for one in held:
            one.close()

    def qido(self) -> None:
        """20 callers search all instances, with all attributes and without a limit."""
        self.by(20, partial(self.ask, "/dicom-web/instances?includefield=all"))

    def zips(self) -> None:
        """20 callers download a study as a ZIP file."""
        self.by(20, partial(self.ask, "/dicom-web/studies/1.2.3?accept=application/zip"))


FLOODS: tuple[Callable[[Floods], None], ...] = (
    Floods.stow_of_small_parts,
    Floods.qido,
    Floods.zips,
    Floods.handshakes,
    Floods.logins,
    Floods.orders,
    Floods.associations,
    Floods.bombs,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--only", nargs="+", choices=[flood.__name__ for flood in FLOODS])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        floods = Floods(Path(name), arguments.seconds)
        with node(Path(name) / "root", "1", **floods.environment()) as (floods.dicom, served):
            print(f"{'':22} {'before':>7} {'node':>7} {'children':>9} {'after':>7}  answers")
            for flood in FLOODS:
                if arguments.only and flood.__name__ not in arguments.only:
                    continue
                floods.answers.clear()
                before = of(served.pid, children=False)
                thread = threading.Thread(target=flood, args=(floods,))
                thread.start()
                most = most_of_children = 0
                while thread.is_alive():
                    most = max(most, of(served.pid, children=False))
                    most_of_children = max(most_of_children, of(served.pid, children=True))
                    time.sleep(0.05)
                figures = [size / 1e6 for size in (before, most, most_of_children, of(served.pid, children=False))]
                row = "{:7.0f} {:7.0f} {:9.0f} {:7.0f}".format(*figures)
                print(f"{flood.__name__:22} {row}  {dict(floods.answers)}", flush=True)


if __name__ == "__main__":
    main()

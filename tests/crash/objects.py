"""Faults of an object store: ``python -m tests.crash.objects --cycles 200``.

A node receives series, converts them, and moves instances and volumes to a bucket. Meanwhile it is killed (SIGKILL) at
named steps of conversions and uploads and at random moments, and the line to the store refuses connections, breaks in
the middle of requests and answers, is slow, or answers with status 500, at random. A gateway before the store confirms
objects that it drops or cuts, and returns other bytes (`tests.lying_store`). Studies are deleted, too. In the end,
everything that was acknowledged and not deleted must be in the store, byte for byte, with the volumes of all of its
series, and nothing else.
"""

import hashlib
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid

from node.api import Outgoing, Settings, VoxelnodeError
from node.control.care import check_repository
from node.control.repository import perform_action
from node.runtime.failpoints import CONVERTING, UPLOADING
from node.runtime.failpoints import VARIABLE as FAILPOINT
from node.settings.core import Storage
from tests.crash.harness import Campaign, main_of, within
from tests.crash.routes import Node, send_all
from tests.lying_store import FLIPS, FLIPS_ONCE, ON_WRITING, Lying, lying_store
from tests.make import instance, set_pixels
from tests.object_store import ObjectStore, object_store
from tests.preloaded import FIRST_WAIT, STAYS
from tests.programs import free_port
from tests.protocol.conftest import data_set_bytes
from tests.rows import view_rows

IDLE_SECONDS = 300.0
FAULTS = ("away", "cut", "error", "slow")
HELD = "held"
UNSETTLED = """
SELECT series_instance_uid AS what FROM series WHERE state IN ('receiving', 'converting')
UNION ALL SELECT key FROM images WHERE place IS NOT 'store'
UNION ALL SELECT key FROM revision_files WHERE place IS NOT 'store'
UNION ALL SELECT key FROM object_removals
"""
"""What waits, of one moment: a conversion that ends leaves files to upload, and its series waits no more."""

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Line:
    """A line to a server that does harm while it is told to: one of `FAULTS`, or `HELD`, when nothing passes."""

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket], random_: random.Random) -> None:
        self._listener, self._connect, self._random = listener, connect, random_
        self.fault: str | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.fault == "away":
                return
            if self.fault == "error":
                client.recv(65536)
                client.sendall(ERROR)
                return
            self._hold()
            with self._connect() as server:
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(16384):
                self._hold()
                if self.fault == "slow":
                    time.sleep(self._random.uniform(0, 1.5))
                if self.fault in ("cut", "away"):
                    sink.sendall(data[: self._random.randrange(len(data))])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _hold(self) -> None:
        while self.fault == HELD:
            time.sleep(0.05)


def line_to(server: str, random_: random.Random) -> tuple[Line, str]:
    """Return a line to a server of HTTP, and the URL of its near end."""
    host, port = re.fullmatch(r"http://([\d.]+):(\d+)", server).groups()  # type: ignore[union-attr]
    listener = socket.create_server(("127.0.0.1", 0))
    line = Line(listener, lambda: socket.create_connection((host, int(port))), random_)
    return line, f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass(slots=True)
class Faults(Campaign):
    """One run."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    _studies: list[tuple[str, set[str]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, cycles: int) -> None:
        random_ = random.Random(self.seed)
        with ExitStack() as opened:
            store = opened.enter_context(object_store())
            store.ask("PUT", "/archive")
            keys = self.folder / "keys"
            keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
            lying = opened.enter_context(lying_store(store.url))
            line, endpoint = line_to(lying.url, random_)
            config = self.folder / "config.toml"
            config.write_text(
                f'[storage]\nurl = "s3://archive/one"\nendpoint = "{endpoint}"\nregion = "us-east-1"\n'
                f'credentials_file = "{keys}"\ncache_bytes = 20000\nstore_seconds = 2\n'
                '[peers.MODALITY]\nae_title = "MODALITY"\n[series]\nquiet_seconds = 2\n'
            )
            port = free_port()
            root = self.folder / "root"
            environment = {"VOXELNODE_CONFIG": str(config), STAYS: "0.5", FIRST_WAIT: "0.3"}
            node = Node(root, port, self.folder / "log", **environment)
            opened.callback(node.kill)
            stop = threading.Event()
            senders = [threading.Thread(target=self._send, args=(port, number, stop)) for number in range(2)]
            node.start()
            for sender in senders:
                sender.start()
            storage = Storage(
                root=root, url="s3://archive/one", endpoint=store.url, region="us-east-1", credentials_file=keys
            )
            settings = Settings(storage=storage)
            for _ in range(cycles):
                self._cycle(node, line, lying, settings, random_)
            stop.set()
            for sender in senders:
                sender.join()
            line.fault = lying.fault = None
            node.kill()
            node = Node(root, port, self.folder / "log", **environment)
            opened.callback(node.kill)
            node.start()
            self._settle(root)
            node.kill()
            self._compare(store, settings)

    def _cycle(self, node: Node, line: Line, lying: Lying, settings: Settings, random_: random.Random) -> None:
        line.fault = random_.choice((None, *FAULTS))
        lying.fault = random_.choice((None, None, None, *ON_WRITING, FLIPS, FLIPS_ONCE))
        for fault in (line.fault or "no fault", lying.fault or "no lie"):
            self.done[fault] += 1
        time.sleep(random_.uniform(0.2, 1.5))
        if random_.random() < 0.5:
            line.fault = None
        point = random_.choice((None, *CONVERTING, *UPLOADING))
        node.kill()
        self.done["killed"] += 1
        node.set_environment(FAILPOINT, None if point is None else f"{point}:{random_.randint(1, 20)}")
        node.start()
        if random_.random() < 0.3:
            self._delete(settings, random_)

    def _delete(self, settings: Settings, random_: random.Random) -> None:
        with self._lock:
            if len(self._studies) < 3:
                return
            study, uids = self._studies.pop(random_.randrange(len(self._studies)))
        try:
            whose = {"level": "study", "uid": study, "study_instance_uid": None}
            perform_action(settings, "delete", **whose, who="crash", erase=True)
        except (VoxelnodeError, OSError):  # the node died meanwhile: it may have been deleted
            self.done["deletion of unknown outcome"] += 1
            with self._lock:
                for uid in uids:
                    self.acknowledged.pop(uid, None)
            return
        self.done["deleted"] += 1
        self.deleted |= uids
        with self._lock:
            for uid in uids:
                self.acknowledged.pop(uid, None)

    def _send(self, port: int, number: int, stop: threading.Event) -> None:
        """Send series after series as a modality does that never gives up, and each instance again at times."""
        random_ = random.Random(self.seed * 100 + number)
        pixels = np.random.default_rng(number).integers(0, 2000, (64, 64), np.int16)
        while not stop.is_set():
            study, series, made = generate_uid(), generate_uid(), []
            for index in range(random_.randint(1, 12)):
                ds = instance(study_uid=study, series_uid=series, InstanceNumber=index + 1)
                data = data_set_bytes(set_pixels(ds, pixels))
                kind = ds.file_meta.TransferSyntaxUID
                made.append(Outgoing(self.folder, ds.SOPClassUID, ds.SOPInstanceUID, kind, 0, len(data), data=data))
            again = list(made) if random_.random() < 0.3 else []
            send_all([[*made, *again]], port)
            with self._lock:
                self.acknowledged |= {one.sop_instance_uid: one.data or b"" for one in made}
                self._studies.append((study, {one.sop_instance_uid for one in made}))
            time.sleep(random_.uniform(0, 0.3))

    def _settle(self, root: Path) -> None:
        if not within(IDLE_SECONDS, lambda: not view_rows(root, UNSETTLED)):
            self.problems.append(f"after {IDLE_SECONDS:g} s there still wait {view_rows(root, UNSETTLED)}")

    def _compare(self, store: ObjectStore, settings: Settings) -> None:
        findings = check_repository(settings, digests=True, repair=False)
        # The last kill may have interrupted a conversion: the next start removes its folder.
        self.problems += [f"fsck: {finding}" for finding in findings if finding.kind != "volume-unknown"]
        rows = view_rows(settings.storage.root, "SELECT sop_instance_uid, key, data_set_offset FROM images")
        kept = {row["sop_instance_uid"]: row for row in rows}
        if lost := self.acknowledged.keys() - kept.keys():
            self.problems.append(f"{len(lost)} of {len(self.acknowledged)} acknowledged instances are lost")
        if back := self.deleted & kept.keys():
            self.problems.append(f"{len(back)} deleted instances are back")
        files = view_rows(settings.storage.root, "SELECT key, bytes, sha256 FROM revision_files")
        self._compare_objects(store, kept, files)
        listed = set(re.findall(r"<Key>one/((?:objects|volumes)/.*?)</Key>", listing(store)))
        if listed != {row["key"] for row in (*rows, *files)}:
            self.problems.append(f"the store has {len(listed)} objects instead of {len(rows) + len(files)}")
        self._compare_series(settings.storage.root, {file["key"] for file in files})
        self.done["instances in the end"], self.done["files of volumes in the end"] = len(rows), len(files)

    def _compare_objects(self, store: ObjectStore, kept: Mapping[str, Any], files: list[Any]) -> None:
        for uid in self.acknowledged.keys() & kept.keys():
            content = store.content(f"/archive/one/{kept[uid]['key']}")
            if content is None:
                self.problems.append(f"{uid} is not in the store")
            elif content[kept[uid]["data_set_offset"] :] != self.acknowledged[uid]:
                self.problems.append(f"{uid} has other bytes in the store")
        for file in files:
            content = store.content(f"/archive/one/{file['key']}")
            if content is None:
                self.problems.append(f"{file['key']} is not in the store")
            elif (len(content), hashlib.sha256(content).hexdigest()) != (file["bytes"], file["sha256"]):
                self.problems.append(f"{file['key']} has other bytes in the store")

    def _compare_series(self, root: Path, keys: set[str]) -> None:
        """Each series has a current revision of all of its instances, whose volumes and sidecars are in the store."""
        for series in view_rows(root, "SELECT * FROM v_series"):
            uid, state = series["series_instance_uid"], series["state"]
            volumes = view_rows(
                root, f"SELECT path FROM v_volumes WHERE NOT superseded AND series_instance_uid = '{uid}'"
            )
            sources = view_rows(
                root,
                f"SELECT DISTINCT sop_instance_uid FROM v_sources s WHERE series_instance_uid = '{uid}' AND revision = "
                f"{series['revision']}",
            )
            paths = {volume["path"].partition("/volumes/")[2] for volume in volumes}
            named = {f"volumes/{path}" for path in paths}
            named |= {f"{key.rpartition('/')[0]}/volume.json" for key in named}
            if state != "converted" or len(sources) != series["instances"] or not named or not named <= keys:
                self.problems.append(f"series {uid} is {state}, with {len(sources)} sources, and lacks {named - keys}")


def listing(store: ObjectStore) -> str:
    text, after = "", ""
    while True:
        page = store.ask("GET", f"/archive?list-type=2&start-after={after}").text
        text += page
        found = re.findall(r"<Key>(.*?)</Key>", page)
        if not found or "<IsTruncated>true" not in page:
            return text
        after = found[-1]


if __name__ == "__main__":
    sys.exit(main_of(Faults, __doc__, 200, "what was acknowledged is in the store, and nothing else"))

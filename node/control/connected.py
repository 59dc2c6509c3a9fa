"""A running node as `node.open` shows a root: the same objects, from REST (docs/web.md).

Nothing is kept open: a list is read page by page on one connection, and each file on one of its own.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from time import sleep
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx2

from node.control.opened import Opened, Row, name_of, one_file_each, series_of
from node.errors import NodeFailed, UsageError
from node.selector import grid_fields

PAGE_ROWS = 1000
CHUNK_BYTES = 1 << 20

POLL_SECONDS = 0.5
"""Interval at which a program asks how far a download is."""

ATTEMPTS = 5
"""How often the file of a download is fetched while the connection breaks."""

MOVED = "the node no longer has this file: its series was converted again, or deleted; ask for volumes() again"

OF_SERIES = (
    "modality", "series_number", "series_description", "protocol_name", "manufacturer",
    "manufacturer_model_name", "verdict", "state",
)  # fmt: skip
OF_STUDY = (
    "patient", "patient_id", "patient_sex", "patient_age", "study_date", "study_description", "accession_number",
)  # fmt: skip
"""Columns of ``v_catalog`` that volumes have from their series and studies; the others are their own."""


class _Served:
    """What a node serves."""

    def __init__(self, url: str, token: str | None, tls: ssl.SSLContext | bool, timeout: float) -> None:
        self._url, self._tls, self._timeout = url, tls, timeout
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if "version" not in self._get("status"):
            raise NodeFailed(f"{url} answers, but not as a voxelnode: give the address of its pages")

    def patients(self) -> list[Row]:
        return self._list("patients")

    def studies(self, patient: Row | None = None) -> list[Row]:
        if patient is None:
            return self._list("studies")
        named = {} if patient["patient_id"] is None else {"patient_id": patient["patient_id"]}
        return [row for row in self._list("studies", **named) if row["patient"] == patient["id"]]

    def series(self, study_instance_uid: str | None = None, where: str | None = None) -> list[Row]:
        return self._list("series", study_instance_uid=study_instance_uid, where=where)

    def volumes(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        return self._list("volumes", study_instance_uid=study_instance_uid, series_instance_uid=series_instance_uid)

    def exclusions(self, series: Row) -> list[Row]:
        uids = {name: series[name] for name in ("study_instance_uid", "series_instance_uid")}
        return [row for row in self._list("exclusions", **uids) if row["revision"] == series["revision"]]

    def failures(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        return self._list("failures", study_instance_uid=study_instance_uid, series_instance_uid=series_instance_uid)

    def sources(self, volume: Row) -> list[Row]:
        return self._list(f"volumes/{volume['id']}/sources")

    def catalog(self, where: str | None = None) -> list[Row]:
        series = {series_of(row): row for row in self._list("series", where=where)}
        studies = {row["study_instance_uid"]: row for row in self._list("studies")}
        files = one_file_each(self._list("volumes", kind="volume"), is_read=False)
        return [
            _cataloged(row, series[series_of(row)], studies[row["study_instance_uid"]])
            for row in files
            if series_of(row) in series and row["study_instance_uid"] in studies
        ]

    def skipped(self) -> list[Row]:
        return []

    def copy(self, volume: Row, name: str, into: Path) -> None:
        digest = hashlib.sha256()
        path = f"volumes/{volume['id']}/file/{quote(name)}"
        with self._client() as client, client.stream("GET", path) as answer:
            if answer.status_code in (404, 410):
                raise FileNotFoundError(f"{name}: {MOVED if answer.status_code == 404 else _said(answer)}")
            self._require(answer)
            with into.open("wb") as file:
                for piece in answer.iter_bytes(CHUNK_BYTES):
                    digest.update(piece)
                    file.write(piece)
        if name == name_of(volume) and digest.hexdigest() != volume["sha256"]:
            raise NodeFailed(f"{name} came with other bytes than the node has noted: fetch it again, or run fsck there")

    def made(self, kind: str, order: Mapping[str, Any], into: Path) -> None:
        """Have a download made, wait for it, fetch its file, and have it removed; a fetch that breaks off goes on."""
        with self._client() as client:
            download = self._json(client.post(f"downloads/{kind}", json=order), 202)
        path = f"work/{download['id']}"
        try:
            while download["state"] in ("waiting", "running"):
                sleep(POLL_SECONDS)
                download = self._get(path)
            if download["state"] != "succeeded":
                raise NodeFailed(f"{self._url} made no file: {download['reason']}")
            self._fetch(f"{path}/file", into)
        finally:
            with suppress(NodeFailed), self._client() as client:
                client.delete(f"{path}/file")

    def _fetch(self, path: str, into: Path) -> None:
        etag: str | None = None
        for attempt in range(ATTEMPTS):
            at = into.stat().st_size if etag else 0
            wanted: dict[str, str] = {"Range": f"bytes={at}-", "If-Range": etag} if at and etag else {}
            try:
                with self._client() as client, client.stream("GET", path, headers=wanted) as answer:
                    self._require(answer, 206 if answer.status_code == 206 else 200)
                    etag = answer.headers.get("etag")
                    with into.open("ab" if answer.status_code == 206 else "wb") as file:
                        for piece in answer.iter_raw(CHUNK_BYTES):
                            file.write(piece)
                return
            except NodeFailed as error:
                if error.status is not None or attempt == ATTEMPTS - 1:
                    into.unlink(missing_ok=True)
                    raise

    def _list(self, path: str, **query: str | None) -> list[Row]:
        wanted = {name: value for name, value in query.items() if value is not None} | {"limit": str(PAGE_ROWS)}
        found: list[Row] = []
        with self._client() as client:
            while True:
                page = self._json(client.get(path, params=wanted))
                found += page["items"]
                if page["next"] is None:
                    return found
                wanted["after"] = page["next"]

    def _get(self, path: str) -> Mapping[str, Any]:
        with self._client() as client:
            return self._json(client.get(path))

    @contextmanager
    def _client(self) -> Iterator[httpx2.Client]:
        base = f"{self._url}/api/v1/"
        options: dict[str, Any] = {"headers": self._headers, "verify": self._tls, "timeout": self._timeout}
        try:
            with httpx2.Client(base_url=base, follow_redirects=False, **options) as client:
                yield client
        except httpx2.HTTPError as error:
            raise NodeFailed(f"{self._url} does not answer: {_reason(error)}") from error

    def _json(self, answer: httpx2.Response, status: int = 200) -> Mapping[str, Any]:
        self._require(answer, status)
        try:
            content = answer.json()
        except ValueError as error:
            raise NodeFailed(f"{self._url} answers, but not as a voxelnode: give the address of its pages") from error
        return content if isinstance(content, dict) else {}

    def _require(self, answer: httpx2.Response, status: int = 200) -> None:
        """Raise NodeFailed unless the answer has this status, in the words of the problem that it has (RFC 9457)."""
        if answer.status_code == status:
            return
        raise NodeFailed(f"{self._url} answered {answer.status_code}: {_said(answer)}", answer.status_code)


def _said(answer: httpx2.Response) -> str:
    """Return the words of the problem that an answer has (RFC 9457)."""
    try:
        answer.read()
        problem = answer.json()
        what = ": ".join(str(problem[name]).rstrip(".") for name in ("title", "detail") if problem.get(name))
        remedy = str(problem.get("remedy") or "").rstrip(".")
        return f"{what}{'' if what.endswith('?') else '.'} {remedy[:1].upper()}{remedy[1:]}" if remedy else what
    except (ValueError, AttributeError):
        return "it is not a voxelnode, or another server stands before it: give the address of its pages"


def _cataloged(volume: Row, series: Row, study: Row) -> Row:
    """Return a row of the catalog, with ``name`` and ``url`` in the place of ``path``."""
    parts = {
        **{name: study[name] for name in OF_STUDY},
        **{name: series[name] for name in OF_SERIES},
        "body_part": series["body_part_examined"],
        **grid_fields(volume["shape"], volume["spacing_mm"], volume["geometry"]),
    }
    left_out = "id", "shape", "spacing_mm", "kind", "superseded", "converter"
    return parts | {name: value for name, value in volume.items() if name not in left_out}


def _reason(error: httpx2.HTTPError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"{error}: name the authority of its certificate by ca_file"
    return f"{type(error).__name__} {error}".strip()


class Connected(Opened):
    """A running node, which also makes ZIP files of what it has."""

    def __init__(self, source: _Served) -> None:
        super().__init__(source)
        self._served = source

    def download_medium(self, into: str | PathLike[str], studies: Sequence[str], series: Sequence[str] = ()) -> Path:
        """Write studies, or series of one, with a DICOMDIR as a ZIP file; return its path.

        `into`: the file, which is replaced if it is there.
        `studies`, `series`: Study and Series Instance UIDs; without series, whole studies.

        Raises NodeFailed: the node does not answer, refuses, or could not make the file.
        """
        return self._downloaded("medium", into, studies, series)

    def download_deidentified(
        self,
        into: str | PathLike[str],
        profile: str,
        studies: Sequence[str],
        series: Sequence[str] = (),
        content: Literal["dicom", "volumes"] = "dicom",
    ) -> Path:
        """Write studies, or series of one, without identities by the table [deidentify.`profile`] of the node.

        Parameters and errors are those of `download_medium`. `content`: the instances, or volumes made of them.
        """
        return self._downloaded("deidentified", into, studies, series, profile=profile, content=content)

    def _downloaded(
        self, kind: str, into: str | PathLike[str], studies: Sequence[str], series: Sequence[str], **more: str
    ) -> Path:
        order = {"study_instance_uids": [*studies], "series_instance_uids": [*series], **more}
        self._served.made(kind, order, Path(into))
        return Path(into)


def connect(
    url: str, token: str | None = None, ca_file: str | PathLike[str] | None = None, timeout: float = 60
) -> Connected:
    """Connect to a running node, for reading by REST.

    `url`: address of its pages, such as ``https://pacs.example.org:8080``.
    `token`: of ``voxelnode account token``, if the node requires accounts. The role ``read`` suffices.
    `ca_file`: certificates (PEM) of the authorities that vouch for the node; by default those of this machine. The
        certificate of the node is always verified.
    `timeout`: seconds that the node may be silent.

    Raises UsageError: the URL is not the address of a node.
    Raises NodeFailed: the node does not answer, or refuses: without a valid token, with status 401. Every call of the
        objects may raise it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise UsageError(f"{url!r} is not the address of a node: http://HOST:PORT or https://HOST:PORT")
    secure = parts.scheme == "https"
    tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file)) if secure else False
    return Connected(_Served(url.rstrip("/"), token, tls, timeout))

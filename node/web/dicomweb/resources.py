"""What a URL of DICOMweb names: the stored instances of a study, of a series, or one of them (PS3.18 10.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated
from urllib.parse import quote

import structlog
from fastapi import Depends, HTTPException, Request, Response
from starlette.types import Receive, Scope, Send

from node.archive.filesystem import Archive
from node.conversion.decoder import DecoderBusy, NotDecoded
from node.dicom.pixel_element import FrameNotFound
from node.errors import VoxelnodeError
from node.index.selection import StoredInstance
from node.web.access import Reader, RequestAudit
from node.web.audit_trail import AccountAuditTrail
from node.web.services import Node, Services
from node.web.streaming import Streamed

log = structlog.get_logger()

PREFIX = "/dicom-web"
CHUNK_BYTES = 1 << 20

READ = ["GET", "HEAD"]
"""Methods of every resource that can be read."""


class Damaged(VoxelnodeError):
    """A file of the archive is not what was received."""


BROKEN = (Damaged, DecoderBusy, FrameNotFound, NotDecoded)
"""Why an instance, or a part of it, cannot be given."""


class Instances(Streamed):
    """A streamed answer that is broken off where an instance cannot be given: its client sees that it is not whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except BROKEN as error:  # no status can tell it any more: the server hangs up
            log.error("answer_broken_off", reason=str(error))


class Target:
    """The instances that a request is about, and who asks for them.

    Attributes
    ----------
    instances : list of StoredInstance
        Never empty.
    """

    def __init__(
        self, request: Request, node: Services, audit: AccountAuditTrail, instances: list[StoredInstance]
    ) -> None:
        self.request, self.node, self.audit, self.instances = request, node, audit, instances

    @property
    def base(self) -> str:
        """The URL of our DICOMweb service, without a slash at the end."""
        return base_url(self.request)

    def audit_access(self, what: str) -> None:
        """Tell the audit log that something of them was looked at."""
        self.audit.accessed(self._studies(), what)

    def audit_transfer(self, what: str) -> None:
        """Tell the audit log that they were taken."""
        self.audit.transferred(self._studies(), what)

    def etag(self, representation: str) -> str:
        """A weak entity tag, as boundaries differ: of the bytes of all instances, and of what is made of them."""
        digest = hashlib.sha256(representation.encode())
        for instance in self.instances:
            digest.update(instance.sha256.encode())
        return f'W/"{digest.hexdigest()[:32]}"'

    def _studies(self) -> list[dict[str, str]]:
        return [{"study_instance_uid": uid} for uid in dict.fromkeys(i.study_instance_uid for i in self.instances)]


def base_url(request: Request) -> str:
    """The URL of our DICOMweb service as the client reaches it, without a slash at the end."""
    return f"{str(request.base_url).rstrip('/')}{PREFIX}"


def _target(
    request: Request,
    _account: Reader,
    audit: RequestAudit,
    node: Node,
    study: str,
    series: str | None = None,
    instance: str | None = None,
) -> Target:
    return find_target(request, node, audit, study, series, instance)


def find_target(
    request: Request,
    node: Services,
    audit: AccountAuditTrail,
    study: str,
    series: str | None = None,
    instance: str | None = None,
) -> Target:
    """The instances that UIDs name.

    Raises
    ------
    HTTPException
        404: there are none; 410: they were deleted.
    """
    with node.index.reading() as index:
        found = list(index.instances.stored(study, series, [instance] if instance else ()))
        if not found:
            deleted = index.deletions.has_deleted(*(uid for uid in (study, series, instance) if uid is not None))
            raise HTTPException(*((410, "it was deleted") if deleted else (404, "there is no such resource")))
    return Target(request, node, audit, found)


RequestedInstances = Annotated[Target, Depends(_target)]
"""Parameter of a route with ``study``, ``series``, ``instance`` in its path: what they name; 404 or 410: nothing."""


def one_instance(target: Target) -> StoredInstance:
    """The one instance of a URL that names an instance."""
    return target.instances[0]


def respond(
    target: Target, content: Iterator[bytes], content_type: str, etag: str, length: int | None = None, status: int = 200
) -> Response:
    """Answer with `content` as it comes; with its head only where that was asked for, or with 304.

    Parameters
    ----------
    etag : str
        See `Target.etag`.
    length : int or None
        Bytes of the content, if that is known before.
    """
    headers = {"ETag": etag, "Vary": "Accept", "Content-Type": content_type}
    if etag in [tag.strip() for tag in target.request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers={"ETag": etag, "Vary": "Accept"})
    if length is not None:
        headers["Content-Length"] = str(length)
    if target.request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return Instances(content, status, headers)


def file_length(instance: StoredInstance) -> int:
    """Bytes of the file of an instance: what stands before the data set, and the data set."""
    return instance.data_set_offset + instance.bytes


def stored_file(archive: Archive, instance: StoredInstance) -> Iterator[bytes]:
    """The DICOM file of an instance in pieces; its data set is as it was received, bit for bit.

    Raises
    ------
    Damaged
        Before the last piece, if it is not; also where the file is gone.
    """
    digest, left = hashlib.sha256(), file_length(instance)
    try:
        with archive.path(instance.key).open("rb", buffering=0) as file:
            piece = file.read(instance.data_set_offset)
            left -= len(piece)
            while left > 0:
                data = file.read(min(CHUNK_BYTES, left))
                if not data:
                    raise Damaged("a file of the archive is shorter than what was received: `voxelnode fsck`")
                digest.update(data)
                left -= len(data)
                if left == 0 and digest.hexdigest() != instance.sha256:
                    raise Damaged("a file of the archive is not what was received: `voxelnode fsck --hash`")
                yield piece + data if piece else data
                piece = b""
    except OSError as error:
        raise Damaged(f"a file of the archive cannot be read: {error.strerror}") from error


def by_series(instances: Sequence[StoredInstance]) -> dict[str, list[StoredInstance]]:
    """Instances by their series, in their order."""
    found: dict[str, list[StoredInstance]] = {}
    for each in instances:
        found.setdefault(each.series_instance_uid, []).append(each)
    return found


def instance_url(base: str, instance: StoredInstance) -> str:
    """Where one instance can be had, PS3.18 10.1."""
    return resource_url(base, instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)


def resource_url(base: str, *uids: str) -> str:
    """Where a study, a series or an instance can be had: by the UIDs from the study on."""
    levels = zip(("studies", "series", "instances"), uids, strict=False)
    return base + "".join(f"/{level}/{quote(uid, safe='')}" for level, uid in levels)

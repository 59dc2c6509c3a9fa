"""Stored instances as they are sent: from their files, or transcoded."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from node.archive.base import LocalFile
from node.association.client.send import NoCopy, NotReadable, NotSendable, Outgoing
from node.association.outgoing import InstanceBytes
from node.children.decoder import Decoder, DecoderBusy, NotDecoded, NotDecodedNow
from node.children.decoding import transcode
from node.index.search.selection import StoredInstance


def outgoing_of(instances: Iterable[StoredInstance], root: Path, local: LocalFile | None = None) -> list[Outgoing]:
    """Return the selected instances with their files below the root of the archive.

    Parameters
    ----------
    local : LocalFile or None
        Fetches files that are not there; None: all of them are.
    """
    return [
        Outgoing(
            root / instance.key,
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax_uid,
            instance.data_set_offset,
            instance.bytes,
            instance.sha256,
            fetch=None if local is None else partial(local, instance),
        )
        for instance in instances
    ]


class Transcoder:
    """Decompresses in a child process into a file that is removed after it was sent.

    Parameters
    ----------
    decoder : Decoder
    folder : Path
        `Archive.incoming`: the files lie beside part files; after a crash the next start removes them.
    """

    def __init__(self, decoder: Decoder, folder: Path) -> None:
        self._decoder, self._folder = decoder, folder

    def __call__(self, path: Path, target: str) -> AbstractContextManager[InstanceBytes]:
        """Yield the data set of a file in the transfer syntax `target`.

        Raises NotSendable: it cannot be transcoded. Raises NotReadable: the decoder was killed. Raises NoCopy: it
        cannot be transcoded now.
        """
        return self._transcoded(path, target)

    @contextmanager
    def _transcoded(self, path: Path, target: str) -> Iterator[InstanceBytes]:
        into = self._folder / f"{uuid.uuid4().hex}.part"
        try:
            try:
                into.touch(0o600)
                self._decoder.run(transcode, path, target, into=into)
                length = into.stat().st_size
            except NotDecodedNow as error:
                raise NotReadable(f"it cannot be transcoded to {target} now: {error}") from error
            except NotDecoded as error:
                raise NotSendable(f"it cannot be transcoded to {target}: {error}") from error
            except (DecoderBusy, OSError) as error:
                raise NoCopy(f"it cannot be transcoded to {target} now: {error}") from error
            yield InstanceBytes(into, 0, length)
        finally:
            into.unlink(missing_ok=True)

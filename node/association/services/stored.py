"""Stored instances as they go out: their files, and their data sets in another transfer syntax."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from node.association.client.send import NotSendable, Outgoing
from node.association.outgoing import InstanceBytes
from node.conversion.decoding import Decoder, DecoderBusy, NotDecoded, transcode
from node.index.selection import Selected


def outgoing_of(selected: Selected, root: Path) -> list[Outgoing]:
    """The files of what was selected, below the root of their archive."""
    return [
        Outgoing(
            root / one.key,
            one.sop_class_uid,
            one.sop_instance_uid,
            one.transfer_syntax_uid,
            one.data_set_offset,
            one.bytes,
            one.sha256,
        )
        for one in selected.instances
    ]


class Transcoder:
    """Decompresses in a child process, into a file that goes when it has been sent.

    Parameters
    ----------
    decoder : Decoder
    root : Path
        Of an archive: such files lie where half received ones do, and go at the next start after a crash.
    """

    def __init__(self, decoder: Decoder, root: Path) -> None:
        self._decoder, self._folder = decoder, root / "incoming"

    def __call__(self, path: Path, target: str) -> AbstractContextManager[InstanceBytes]:
        """The data set of a file in the transfer syntax `target`.

        Raises
        ------
        NotSendable
            It cannot be had.
        """
        return self._transcoded(path, target)

    @contextmanager
    def _transcoded(self, path: Path, target: str) -> Iterator[InstanceBytes]:
        into = self._folder / f"{uuid.uuid4().hex}.part"
        try:
            try:
                self._decoder.run(transcode, path, target, into)
                length = into.stat().st_size
            except (NotDecoded, DecoderBusy, OSError) as error:
                raise NotSendable(f"it cannot be had in {target}: {error}") from error
            yield InstanceBytes(into, 0, length)
        finally:
            into.unlink(missing_ok=True)

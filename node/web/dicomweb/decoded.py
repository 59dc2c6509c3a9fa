"""What children decode, as files: however much it is, little of it is in our memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from node.web.dicomweb.resources import CHUNK_BYTES, Damaged
from node.web.services import Services


def decoded_file(node: Services, function: Callable[..., bytes], *arguments: Any) -> IO[bytes]:
    """A file that a child has written, which goes when it is closed.

    On the archive's disk rather than in memory: an instance may take gigabytes uncompressed.

    Parameters
    ----------
    function : callable
        Of `node.conversion.decoding`; takes `arguments`, and the path of the file to write.

    Raises
    ------
    NotDecoded, DecoderBusy
        See `Decoder.run`.
    Damaged
    """
    file: IO[bytes] = NamedTemporaryFile(  # noqa: SIM115 - whoever reads it closes it
        dir=node.archive.root / "incoming", prefix="decoded-", suffix=".part"
    )
    try:
        node.decoder.run(function, *arguments, Path(file.name))
    except OSError as error:
        file.close()
        raise Damaged(f"an instance cannot be decoded: {error.strerror}") from error
    except BaseException:
        file.close()
        raise
    return file


def length_of(file: IO[bytes]) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """The content of a file, which is closed at the end."""
    with file:
        while piece := file.read(CHUNK_BYTES):
            yield piece

"""Decoded values in files written by child processes, to keep them out of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from node.web.dicomweb.resources import CHUNK_BYTES
from node.web.services import Services
from node.web.stored_files import Unavailable


def decoded_file(node: Services, function: Callable[..., bytes], *arguments: Any) -> IO[bytes]:
    """Return a file written by a child process; the file is deleted when it is closed.

    It is on the disk of the archive, not in memory, because an uncompressed instance may have gigabytes.

    Parameters
    ----------
    function : callable
        A function of `node.children.decoding`; takes `arguments`, and the file to write as `into`.

    Raises
    ------
    NotDecoded, DecoderBusy
        See `Decoder.run`.
    Unavailable
        The file cannot be read now.
    """
    file: IO[bytes] = NamedTemporaryFile(  # noqa: SIM115 - the reader closes it
        dir=node.archive.incoming, prefix="decoded-", suffix=".part"
    )
    try:
        node.decoder.run(function, *arguments, into=Path(file.name))
    except OSError as error:
        file.close()
        raise Unavailable(f"an instance cannot be decoded: {error.strerror}") from error
    except BaseException:
        file.close()
        raise
    return file


def length_of(file: IO[bytes]) -> int:
    """Return the length of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a file, and close it at the end."""
    with file:
        while piece := file.read(CHUNK_BYTES):
            yield piece

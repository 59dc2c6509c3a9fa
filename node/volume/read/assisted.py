"""Decode compressed frames of one series at the same time, in the processes that assist a converter.

Codecs that hold the interpreter's lock while they decode keep every other thread waiting: threads gain nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from node.errors import ConversionRefused
from node.volume.model import Array
from node.volume.read.codestreams import Codestream
from node.volume.read.decoders import FrameShape, decode
from node.volume.read.transfer_syntaxes import LOCKING_SYNTAXES
from node.volume.reasons import Reason

Ask = Callable[[bytes, int], bytearray | None]
"""Asks one of the assistants: a request, and the greatest number of bytes of the answer; None if none can answer."""

MIN_BYTES = 1 << 14
"""Decoded size of the smallest frame that is sent to an assistant: 128 x 128 pixels of 8 bits, which take 0.1 ms."""

_MAX_REFUSAL_BYTES = 4096
_HEAD = struct.Struct(">I")
_SHORTAGE, _REFUSED = b"m", b"r"
_ITEM_BYTES = {b"1": 1, b"2": 2, b"4": 4}

_ask: Ask | None = None


def use_assistants(ask: Ask) -> None:
    """Let assistants decode the frames that this process needs."""
    global _ask
    _ask = ask


def decode_frame(frame: bytes, shape: FrameShape) -> Array:
    """Return what `node.volume.read.decoders.decode` does, decoded by an assistant if that is faster."""
    pixel_bytes = shape.rows * shape.columns * shape.samples * shape.container.itemsize
    if _ask is None or shape.transfer_syntax_uid not in LOCKING_SYNTAXES or pixel_bytes < MIN_BYTES:
        return decode(frame, shape)
    head = json.dumps(asdict(shape)).encode()
    answer = _ask(_HEAD.pack(len(head)) + head + frame, 1 + max(pixel_bytes, _MAX_REFUSAL_BYTES))
    if not answer or answer[:1] == _SHORTAGE:
        return decode(frame, shape)
    if answer[:1] == _REFUSED:
        raise ConversionRefused(Reason.UNDECODABLE, answer[1:].decode("utf-8", "replace"))
    samples = np.frombuffer(answer, f"u{_ITEM_BYTES[bytes(answer[:1])]}", offset=1)
    return samples.reshape((shape.rows, shape.columns, shape.samples)[: 2 if shape.samples == 1 else 3])


def answer_request(request: bytearray) -> bytes:
    """Decode the frame of a request of `decode_frame`; run in an assistant."""
    [length] = _HEAD.unpack_from(request)
    stated = json.loads(request[_HEAD.size : _HEAD.size + length])
    codestream = stated.pop("codestream")
    shape = FrameShape(**stated, codestream=Codestream(**codestream) if codestream else None)
    try:
        samples = decode(bytes(memoryview(request)[_HEAD.size + length :]), shape)
    except MemoryError:
        return _SHORTAGE
    except ConversionRefused as refused:
        return _REFUSED + str(refused.detail).encode()[:_MAX_REFUSAL_BYTES]
    return b"%d" % samples.dtype.itemsize + samples.tobytes()

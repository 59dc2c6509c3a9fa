"""The middle opens no file: from the bytes of instances to the voxels of a volume."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import Dataset

from node.dicom.reading import LONG_PIXELS, InstanceSource, data_set_of_file
from node.volume.assemble import assemble
from tests.make import as_file, ct_series

_watching: list[list[str]] = []
sys.addaudithook(lambda event, arguments: [seen.append(str(arguments[0])) for seen in _watching if event == "open"])  # type: ignore[func-returns-value]


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The files that are opened meanwhile, but for modules that Python loads."""
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)
        seen[:] = [path for path in seen if not path.endswith((".py", ".pyc", ".so"))]


class InMemory(BytesIO, InstanceSource):  # type: ignore[misc]
    """A file in memory."""

    def read_at(self, offset: int, length: int) -> bytes:
        return self.getvalue()[offset : offset + length]


def read(data: bytes) -> Dataset:
    return data_set_of_file(data, len(data), InMemory(data))


def test_the_hook_sees_a_file_that_is_opened(tmp_path: Any) -> None:
    with opened_files() as seen:
        (tmp_path / "a.dcm").write_bytes(b"")
    assert seen == [str(tmp_path / "a.dcm")]


def test_bytes_become_a_volume_without_a_file() -> None:
    instances = [as_file(ds) for ds in ct_series(5)]
    with opened_files() as seen:
        [volume] = assemble([read(data) for data in instances]).volumes
    assert volume.voxels.shape[1] == len(instances)
    assert not seen


def test_long_pixels_are_read_from_the_object_that_was_given() -> None:
    [ds] = ct_series(1, rows=256, columns=256)
    read_back = read(as_file(ds))
    assert len(ds.PixelData) >= LONG_PIXELS
    with opened_files() as seen:
        assert read_back.PixelData == ds.PixelData
    assert not seen

"""Series of GE's ``epi_pepolar``, whose every second volume is stored mirrored along the phase encoding."""

from typing import Any

import numpy as np
from pydicom import FileDataset
from pydicom.uid import generate_uid

from tests import make


def image(time: int, slice_: int) -> np.ndarray:
    """A head that nobody takes for its mirror image."""
    rows, columns = np.mgrid[:16, :12]
    is_head = (rows > 1) & (rows < 11 + slice_ % 2) & (columns > 1)
    return (is_head * (200 + 40 * rows + 3 * columns) + time + slice_).astype(np.uint16)


def polarity_series(scheme: int, times: int = 4, *, stored: str = "RFRF", **attributes: Any) -> list[FileDataset]:
    """Return what epi_pepolar writes; `stored` says which volumes are mirrored."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    series = []
    for time in range(times):
        pixels = np.stack([image(time, slice_) for slice_ in range(4)])
        stated = {"InPlanePhaseEncodingDirection": "COL", "RectilinearPhaseEncodeReordering": "LINEAR"}
        series += make.mr_series(
            4,
            Manufacturer="GE MEDICAL SYSTEMS",
            TemporalPositionIdentifier=time + 1,
            pixels=pixels[:, ::-1] if stored[time] == "R" else pixels,
            **(uids | stated | attributes),
        )
    for number, ds in enumerate(series, start=1):
        ds.InstanceNumber = number
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", "/psd/epi_pepolar")
        block.add_new(0xB3, "DS", str(scheme))
    return series

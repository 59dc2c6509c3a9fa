"""Series in time that a scanner sent as several series, each under a Series Instance UID of its own."""

from collections.abc import Callable
from typing import Any

from pydicom import FileDataset
from pydicom.uid import generate_uid

from tests import truth


def by_volume(time: int, slice_: int) -> int:
    return time


def by_slice(time: int, slice_: int) -> int:
    return slice_


def split_series(times: int, slices: int, key: Callable[[int, int], int], **attributes: Any) -> truth.Truth:
    """Return a series of Siemens' XA whose planes have one Series Instance UID for each value of `key`."""
    shared: dict[str, Any] = {"Manufacturer": "SIEMENS", "SoftwareVersions": "syngo MR XA70", "SeriesNumber": 7}
    shared |= {"ProtocolName": "bold", "SeriesDescription": "bold", "ImageType": r"ORIGINAL\PRIMARY\M\NONE"}
    series = truth.series(times, slices, clock=True, **(shared | attributes))
    uids: dict[int, str] = {}

    def edit(ds: FileDataset, time: int, slice_: int) -> None:
        ds.SeriesInstanceUID = uids.setdefault(key(time, slice_), generate_uid())

    return series.edited(edit)

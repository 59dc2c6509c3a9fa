"""Instances of many transfer syntaxes, from pydicom's own test files: each the only one of its study."""

import warnings
from dataclasses import dataclass
from io import BytesIO

from pydicom import FileDataset, dcmread

from tests.make import PYDICOM_FILES

NAMES = (
    "MR_small_implicit.dcm",
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "examples_palette.dcm",
    "liver_expb_1frame.dcm",
    "rtdose_expb.dcm",
    "image_dfl.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "examples_ybr_color.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_jp2klossless.dcm",
    "examples_jpeg2k.dcm",
    "MR_small_RLE.dcm",
    "rtdose_rle.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "rtplan.dcm",
)


@dataclass(frozen=True)
class Sample:
    """One instance and the file that it came in; `path` is that of its resource."""

    name: str
    file: bytes
    study: str
    series: str
    instance: str

    @property
    def path(self) -> str:
        return f"/dicom-web/studies/{self.study}/series/{self.series}/instances/{self.instance}"

    def read(self) -> FileDataset:
        return dcmread(BytesIO(self.file))


def sample(name: str) -> Sample:
    """A test file under UIDs of its own."""
    ds = dcmread(PYDICOM_FILES / name)
    number = 1 + NAMES.index(name)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.9.{number}", f"1.2.9.{number}.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}.1.1"
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these files are what they are
        ds.save_as(stream, enforce_file_format=True)
    return Sample(name, stream.getvalue(), ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)


def data_set(file: bytes) -> bytes:
    """What follows preamble and File Meta Information (PS3.10 7.1)."""
    return file[144 + int.from_bytes(file[140:144], "little") :]

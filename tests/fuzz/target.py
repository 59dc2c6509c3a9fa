"""What must hold of any bytes: they are refused with an error of the node, or converted, and each is accounted for."""

import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from node.conversion.job import ConversionJob, Converted
from node.conversion.pool import read_answer, write_answer
from node.dicom.attributes import instance_attributes
from node.dicom.walker import HeaderCut
from node.errors import VoxelnodeError
from node.receive.dicom_files import MediaFile, find_instances
from node.writers.options import WriteOptions
from tests.converting import convert_with_all

OPTIONS = WriteOptions(("nifti", "nrrd"), compress=False)
_LENGTH = struct.Struct("<I")


def joined(files: Iterable[bytes]) -> bytes:
    """Return an input that consists of some files."""
    return b"".join(_LENGTH.pack(len(file)) + file for file in files)


def files_of(data: bytes) -> Iterator[bytes]:
    """Yield the files of an input."""
    while len(data) > _LENGTH.size:
        [length] = _LENGTH.unpack_from(data)
        yield data[_LENGTH.size : _LENGTH.size + length]
        data = data[_LENGTH.size + length :]


def run(data: bytes) -> None:
    """Receive the files of an input, and convert what is one series. Raises what must not be raised."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        out.mkdir()
        for number, file in enumerate(files_of(data)):
            (source / f"{number}.dcm").write_bytes(file)
        found = [file for file in find_instances([source]) if isinstance(file, MediaFile)]
        for file in found:
            _receive(file)
        if instances := _of_one_series(found):
            job = ConversionJob(instances, out, OPTIONS)
            _account(job, read_answer(write_answer(convert_with_all(job)), job))


def _receive(file: MediaFile) -> None:
    content = b"".join(file.data_set())
    with suppress(VoxelnodeError, HeaderCut):
        attributes = instance_attributes(content, file.identity.transfer_syntax_uid)
        for level in (attributes.patient, attributes.study, attributes.series, attributes.image):
            for value in level.values():
                if isinstance(value, int) and abs(value) >= 1 << 63:
                    raise AssertionError("no integer of an index")


def _of_one_series(found: Iterable[MediaFile]) -> tuple[tuple[str, Path], ...]:
    found = [file for file in found if file.path is not None]
    return tuple(
        (file.identity.sop_instance_uid, file.path)
        for file in found
        if file.path is not None and file.identity.series_instance_uid == found[0].identity.series_instance_uid
    )


def _account(job: ConversionJob, converted: Converted) -> None:
    """Raise AssertionError if an instance is neither in a volume nor told of."""
    reported = {uid for _, uid, _ in converted.sources} | {uid for uid, _ in converted.damaged}
    reported |= {exclusion.sop_instance_uid for exclusion in converted.exclusions}
    reported |= {uid for refusal in converted.refusals for uid in refusal.sop_instance_uids}
    if not converted.references and (silent := {uid for uid, _ in job.instances} - reported):
        raise AssertionError(f"{len(silent)} of {len(job.instances)} instances are not accounted for")

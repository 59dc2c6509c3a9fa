"""The corpus of wrong series: what converters got wrong by their own trackers, built anew, and judged voxel by voxel.

    python -m tests.reference.wrong_series

prints the tables of docs/project/wrong-series.md. Each case is a series after an issue of dcm2niix whose
text says which kind of wrong result there was; no data of it are used. A case knows where each of its planes lies, what
its voxels are worth, and of which image (echo, component ...) and time it is. So the judge needs no oracle: whichever
way rows, slices and times run in a file, each of its planes must be one that was acquired there.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, generate_uid

from node.conversion.offline import convert_folder
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make, mirrored, truth
from tests.converting import here
from tests.programs import DCM2NIIX
from tests.split import by_slice, by_volume, split_series

TOLERANCE_MM = 0.05
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Sidecar = Callable[[dict[str, Any], Any], Iterator[str]]
"""Yields what a sidecar, and the gradient table beside it, say wrongly of a volume: (fields, `Made`)."""


@dataclass(frozen=True)
class Plane:
    """One plane as it was acquired: (rows, columns) values, and from its (column, row, 0) to RAS+ in mm."""

    values: NDArray[np.float64]
    affine: NDArray[np.float64]
    image: str = ""
    time: int = 0

    @property
    def centre(self) -> NDArray[np.float64]:
        rows, columns = self.values.shape
        return np.asarray(self.affine @ ((columns - 1) / 2, (rows - 1) / 2, 0, 1))


@dataclass(frozen=True)
class Case:
    """A series that somebody's program converted wrongly.

    `issues`: issues of dcm2niix that tell of this kind of mistake; none if other programs make it.
    `mistake`: what the result was.
    `may_lack`: of `planes`, those that no volume needs; by default none.
    """

    name: str
    issues: tuple[int, ...]
    mistake: str
    datasets: list[FileDataset]
    planes: list[Plane]
    may_lack: frozenset[int] = frozenset()
    sidecar: Sidecar = field(default=lambda fields, made: iter(()))


@dataclass(frozen=True)
class Made:
    """A volume that a program made, and the files beside it."""

    path: Path
    fields: dict[str, Any]

    @property
    def image(self) -> Any:
        return nib.load(self.path)

    @property
    def directions(self) -> NDArray[np.float64] | None:
        """Gradient directions in RAS+; FSL's first axis runs against that of an image which is not mirrored."""
        file = self.path.with_name(re.sub(r"\.nii(\.gz)?$", ".bvec", self.path.name))
        if not file.exists():
            return None
        axes = self.image.affine[:3, :3] / np.linalg.norm(self.image.affine[:3, :3], axis=0)
        vectors = np.loadtxt(file, ndmin=2).T * ((-1, 1, 1) if np.linalg.det(axes) > 0 else (1, 1, 1))
        return np.asarray(vectors @ axes.T)


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``right``, ``warned`` (not whole, but the program says so), ``refused`` or ``wrong``.

    `why` is what is wrong with the volumes, `said` what the program says of the series.
    """

    state: str
    why: str = ""
    said: str = ""


# The judge


def plane_of(ds: Dataset, image: str = "", time: int = 0) -> Plane:
    """Return the plane of a classic instance, from its own header (PS3.3 C.7.6.2)."""
    values = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    affine = place(ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing)
    return Plane(np.asarray(values, float), affine, image, time)


def place(position: Sequence[Any], orientation: Sequence[Any], spacing: Sequence[Any]) -> NDArray[np.float64]:
    """Return the affine of a plane, with a third axis of 1 mm along its normal."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * float(spacing[1]), column * float(spacing[0])
    affine[:3, 2], affine[:3, 3] = np.cross(row, column), np.array(position, float)
    return np.asarray(TO_RAS @ affine)


def faults(made: Sequence[Made], case: Case) -> Iterator[str]:
    """Yield what the volumes of a series say wrongly; first what lies in the wrong place or has other voxels."""
    used: dict[int, int] = {}
    centres = np.array([plane.centre for plane in case.planes])
    for volume in made:
        image = volume.image
        values, affine = np.asanyarray(image.dataobj, dtype=np.float64), image.affine
        values = values.reshape(*values.shape[:3], -1)
        found = [
            [_source(values[:, :, k, t], k, affine, case.planes, centres, used) for k in range(values.shape[2])]
            for t in range(values.shape[3])
        ]
        strange = [(k, t) for t, planes in enumerate(found) for k, number in enumerate(planes) if number is None]
        if strange:
            k, t = strange[0]
            yield f"{len(strange)} planes have no match at their place (first: slice {k}, time {t})"
        yield from _mixed([[case.planes[n] for n in planes if n is not None] for planes in found])
        yield from case.sidecar(volume.fields, volume)
    lacking = set(range(len(case.planes))) - set(used) - case.may_lack
    if lacking:
        yield f"{len(lacking)} of {len(case.planes)} planes are in no volume"
    if any(count > 1 for count in used.values()):
        yield f"{sum(count > 1 for count in used.values())} planes stand twice"


def _source(
    values: NDArray[np.float64],
    k: int,
    affine: NDArray[np.float64],
    planes: Sequence[Plane],
    centres: NDArray[np.float64],
    used: dict[int, int],
) -> int | None:
    """Return the number of the plane that lies where slice `k` of a volume does, and has its values."""
    columns, rows = values.shape
    corners = np.array([(i, j, k, 1) for i in (0, columns - 1) for j in (0, rows - 1)], float)
    near = np.linalg.norm(centres - affine @ ((columns - 1) / 2, (rows - 1) / 2, k, 1), axis=1) < 1
    candidates = []
    for number in map(int, np.flatnonzero(near)):
        plane = planes[number]
        at = corners @ (np.linalg.inv(plane.affine) @ affine).T
        near_mm = np.abs(at[:, 2]).max()
        whole = np.round(at[:, :2])
        if near_mm > TOLERANCE_MM or np.abs(at[:, :2] - whole).max() > TOLERANCE_MM:
            continue
        (c0, r0), (_, _), (_, _), (c1, r1) = whole
        turned = _turned(plane.values, (int(c0), int(r0)), (int(c1), int(r1)), at)
        if turned is not None and turned.shape == values.shape and np.allclose(turned, values, rtol=1e-4, atol=1e-3):
            candidates.append(number)
    if not candidates:
        return None
    number = min(candidates, key=lambda number: used.get(number, 0))
    used[number] = used.get(number, 0) + 1
    return number


def _turned(
    values: NDArray[np.float64], first: tuple[int, int], last: tuple[int, int], at: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return (columns, rows) values as a file has them whose corners lie at these columns and rows."""
    along_columns = abs(at[2, 0] - at[0, 0]) >= abs(at[2, 1] - at[0, 1])  # whether i runs along columns
    turned = values.T
    if {first[0], last[0]} - {0, turned.shape[0] - 1} or {first[1], last[1]} - {0, turned.shape[1] - 1}:
        return None
    turned = turned[:: -1 if first[0] > last[0] else 1, :: -1 if first[1] > last[1] else 1]
    return turned if along_columns else turned.T


def _mixed(times: Sequence[Sequence[Plane]]) -> Iterator[str]:
    if len({plane.image for planes in times for plane in planes}) > 1:
        yield f"images are mixed: {', '.join(sorted({plane.image for planes in times for plane in planes}))}"
    if any(len({plane.time for plane in planes}) > 1 for planes in times):
        yield "a time has slices of several"
    firsts = [planes[0].time for planes in times if planes]
    if firsts != sorted(firsts):
        yield "times are in another order"


# The programs


def by_voxelnode(case: Case) -> Outcome:
    """Convert a case without a node, in this process, and judge it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = _saved(case, Path(temporary)), Path(temporary, "out")
        listing = convert_folder([folder], out, write_options(Convert(formats=("nifti",), thumbnails=False)), here)
        made = [_made(out / row["path"]) for row in listing["volumes"] if row["kind"] == "volume"]
        wrong = next(faults(made, case), None)
        said = [row["reason"] for row in listing["refusals"]]
        said += [warning for row in listing["volumes"] for warning in row["warnings"]]
        said += [row["reason"] for row in listing["exclusions"]]
        verdicts = [row["verdict"] for row in listing["series"] if row["verdict"]]
        said += [verdict["state"] for verdict in verdicts if verdict["state"] in ("incomplete", "suspect")]
    return _outcome(wrong, dict.fromkeys(said), is_made=bool(made))


def by_dcm2niix(case: Case) -> Outcome:
    """Let dcm2niix convert a case, scaled by Rescale Slope, and judge it; its interpolated copies are left out."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = _saved(case, Path(temporary)), Path(temporary, "out")
        out.mkdir()
        command = [str(DCM2NIIX), "-b", "y", "-z", "n", "-p", "n", "-f", "%s", "-o", str(out), str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
        paths = [
            path for path in sorted(out.glob("*.nii")) if not re.search(r"_(Eq|Tilt)(_\d+)?[a-z]?\.nii$", path.name)
        ]
        made = [_made(path) for path in paths]
        wrong = next(faults(made, case), None)
        text = ended.stdout + ended.stderr
        lines = (line.partition("Convert ")[0].replace(temporary, "") for line in text.splitlines())
        said = dict.fromkeys(
            line.strip().rstrip(".").replace("`", "'").replace("](", "] (")
            for line in lines
            if line.startswith(("Warning", "Error"))
        )
        said = {line: None for line in said if not any(habit in line for habit in HABITS)}
    return _outcome(wrong, said, is_made=bool(made))


HABITS = (
    *("Unable to determine manufacturer", "Siemens XA exported as classic", "Philips enhanced DICOMs"),
    *("order is not spatial", "Missing GE protocol data block", "no Protocol Data Block GE", "Limited validation"),
    "Bogus slice timing",
)
"""Warnings of dcm2niix that do not depend on what is wrong with a case."""


def version_of_dcm2niix() -> str:
    """Return the version of the program that is installed here."""
    banner = subprocess.run([str(DCM2NIIX), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v\d[\d.]*", banner)
    return found[0] if found else ""


def _saved(case: Case, folder: Path) -> Path:
    (folder / "in").mkdir()
    for number, ds in enumerate(case.datasets):
        ds.PatientPosition, ds.ProtocolName = "HFS", "example"  # dcm2niix warns of every series without
        ds.save_as(folder / "in" / f"{number:05}.dcm", enforce_file_format=True)
    return folder / "in"


def _made(path: Path) -> Made:
    sidecar = path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name))
    try:
        return Made(path, json.loads(sidecar.read_text()) if sidecar.exists() else {})
    except ValueError:
        return Made(path, {"SliceTiming": [float("inf")]})


def _outcome(wrong: str | None, said: dict[str, None], *, is_made: bool) -> Outcome:
    if wrong is None:
        return Outcome("right")
    if said:
        return Outcome("warned" if is_made else "refused", wrong, ", ".join(f"`{line}`" for line in list(said)[:3]))
    return Outcome("wrong", wrong)


# The cases


def _classic(name: str, issues: Sequence[int], mistake: str, datasets: list[FileDataset], **more: Any) -> Case:
    planes = [plane_of(ds) for ds in datasets]
    return Case(name, tuple(issues), mistake, datasets, planes, **more)


def _overlapping_ct() -> Case:
    datasets = make.ct_series(12, spacing=0.6, SliceThickness="0.8")
    return _classic("overlapping CT", [1018], "spacing is the thickness, and slices run the other way", datasets)


def _descending_ct() -> Case:
    datasets = make.ct_series(9)
    for ds, number in zip(datasets, (3, 9, 1, 7, 5, 2, 8, 4, 6), strict=True):
        ds.InstanceNumber = number
    return _classic("CT numbered without order", [637], "slices in the order of their numbers", datasets)


def _doubled_end_and_a_gap() -> Case:
    datasets = make.mr_series(20, spacing=1.2)
    double = deepcopy(datasets[0])
    double.SOPInstanceUID = double.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    double.InstanceNumber = 21
    del datasets[12]
    mistake = "the gap closes"
    return _classic("first slice twice, one missing", [539], mistake, [*datasets, double], may_lack=frozenset({0, 19}))


def _large_gap() -> Case:
    datasets = [ds for index, ds in enumerate(make.ct_series(30, spacing=1.6)) if not 12 <= index < 22]
    return _classic("a gap of ten slices", [248], "slices behind the gap in the wrong place", datasets)


def _rounded_positions() -> Case:
    rounded = np.array([(-50, -40, 30 + index * 0.9 + (2e-6 if index % 2 else 0)) for index in range(20)])
    datasets = make.mr_series(20, spacing=0.9, positions=rounded)
    return _classic("positions rounded to 6 digits", [216], "an even series is called uneven", datasets)


def _uneven_ct() -> Case:
    z = np.concatenate([np.arange(10) * 2.5, 25 + np.arange(6) * 7.5])
    datasets = make.ct_series(16, spacing=2.5, positions=np.stack([0 * z - 50, 0 * z - 40, z], axis=1))
    return _classic("close slices, then far ones", [22], "one spacing for all", datasets)


def _in_time(series: truth.Truth) -> list[Plane]:
    return [plane_of(ds, time=index // series.slices) for index, ds in enumerate(series.datasets)]


def _times_in_indirect_order() -> Case:
    series = truth.series(4, 9, clock=True)
    planes = _in_time(series)
    order = (0, 3, 6, 1, 4, 7, 2, 5, 8)
    series.edited(lambda ds, time, slice_: setattr(ds, "InstanceNumber", time * 9 + order.index(slice_) + 1))
    issues = [529, 567]
    return Case("times, slices in indirect order", tuple(issues), "slices scrambled", series.datasets, planes)


def _numbers_that_lie() -> Case:
    series = truth.series(5, 6, clock=True)
    planes = _in_time(series)
    rng = np.random.default_rng(1)
    numbers = [int(number) + 1 for number in rng.permutation(30)]
    series.edited(lambda ds, time, slice_: setattr(ds, "InstanceNumber", numbers[time * 6 + slice_]))
    return Case("times, numbers shuffled", (546,), "slices of several times in one", series.datasets, planes)


def _equal_numbers() -> Case:
    datasets = make.mr_series(8, InstanceNumber=1, AcquisitionNumber=1, AcquisitionTime="101500")
    return _classic("every Instance Number is 1", [168], "slices are taken for doubles of each other", datasets)


def _enhanced(name: str, issue: int, mistake: str, order: Sequence[int], **attributes: Any) -> Case:
    slices, times = 6, 5
    pixels = make.pattern(slices * times, make.ROWS, make.COLUMNS)
    ds = make.enhanced_mr(slices, times, pixels=pixels, order=order, **attributes)
    places = make.stack_positions(slices, make.SPACING_MM, make.ORIGIN_MM, make.AXIAL)
    planes = [
        Plane(
            pixels[frame].astype(float),
            place(places[frame % slices], make.AXIAL, make.PIXEL_SPACING_MM),
            "",
            frame // slices,
        )
        for frame in range(slices * times)
    ]
    return Case(name, (issue,), mistake, [ds], planes)


def _enhanced_slices_first() -> Case:
    order = [time * 6 + slice_ for slice_ in range(6) for time in range(5)]
    mistake = "a volume has one slice at all times"
    return _enhanced("enhanced, all times of a slice in turn", 809, mistake, order, Manufacturer="Philips")


def _enhanced_shuffled() -> Case:
    order = [int(frame) for frame in np.random.default_rng(2).permutation(30)]
    return _enhanced("enhanced, frames in no order", 533, "frames are stacked as they come", order)


def _slope_per_slice() -> Case:
    datasets = make.mr_series(6)
    for number, ds in enumerate(datasets):
        ds.RescaleSlope, ds.RescaleIntercept = str(1.5 + number), str(-10 * number)
    return _classic("a slope of its own for each slice", [363], "the first slope scales all slices", datasets)


def _many_slices() -> Case:
    datasets = make.mr_series(1100, rows=8, columns=6, spacing=0.5, orientation=make.CORONAL)
    return _classic("1100 slices", [1015], "no orientation beyond 1024 slices", datasets)


def _nested_geometry() -> Case:
    datasets = make.mr_series(6)
    for ds in datasets:
        former, original = Dataset(), Dataset()
        former.ImagePositionPatient, former.ImageOrientationPatient = [0, 0, 0], [0, 1, 0, 0, 0, -1]
        former.PixelSpacing, former.InstanceNumber, former.RescaleSlope = [9, 9], 77, "9"
        original.ModifiedAttributesSequence, original.ModifyingSystem = [former], "Example"
        ds.OriginalAttributesSequence = [original]
    issues = [639, 678, 989]
    return _classic("former values in Original Attributes Sequence", issues, "the former values are taken", datasets)


def _images(
    name: str, issues: Sequence[int], mistake: str, kinds: dict[str, dict[str, Any]], slices: int = 5, **shared: Any
) -> Case:
    """Return a case with several images in one series, each of which is a volume of its own."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    datasets: list[FileDataset] = []
    planes = []
    for seed, (image, attributes) in enumerate(kinds.items()):
        pixels = make.pattern(slices, make.ROWS, make.COLUMNS, seed=seed)
        for ds in make.mr_series(slices, pixels=pixels, **uids, **shared, **attributes):
            ds.InstanceNumber = len(datasets) + 1
            datasets.append(ds)
            planes.append(plane_of(ds, image))
    return Case(name, tuple(issues), mistake, datasets, planes)


def _magnitude_and_phase() -> Case:
    kinds = {
        f"{component}{echo}": {
            "ImageType": rf"ORIGINAL\PRIMARY\{component}\FFE\{component}\FFE",
            "EchoTime": echo,
            "EchoNumbers": number,
        }
        for number, echo in enumerate(("4.6", "6.9"), start=1)
        for component in ("M", "P")
    }
    mistake = "magnitude and phase are times of one volume"
    return _images("magnitude and phase of two echoes", [170], mistake, kinds, Manufacturer="Philips")


def _four_dixon_images() -> Case:
    kinds = {name: {"ImageType": rf"DERIVED\PRIMARY\{name}\{name}\DERIVED"} for name in ("W", "F", "IP", "OP")}
    mistake = "water, fat and both phases are times of one volume"
    return _images("four images of a Dixon scan", [1038], mistake, kinds, Manufacturer="Philips")


def _noise_volume() -> Case:
    series = truth.series(6, 5, clock=True, Manufacturer="SIEMENS")
    noise = ["ORIGINAL", "PRIMARY", "M", "NOISE", "ND"]

    def edit(ds: FileDataset, time: int, _: int) -> None:
        _private(ds, 0x0021, "SIEMENS MR SDI 02", 0x75, "CS", noise if time == 5 else list(ds.ImageType))
        ds.ImageType = noise if time == 5 else ds.ImageType

    series.edited(edit)
    planes = [plane_of(ds, "noise" if index >= 25 else "image", index // 5) for index, ds in enumerate(series.datasets)]
    mistake = "a volume without excitation is one more time"
    return Case("noise at the end of a series", (1025,), mistake, series.datasets, planes)


def _fragments(*, offsets: bool) -> Case:
    """Return slices in JPEG 2000 whose codestreams stand in several fragments (PS3.5 A.4)."""
    datasets = make.mr_series(5, rows=64, columns=64)
    planes = [plane_of(ds) for ds in datasets]
    for ds in datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        [whole] = _codestreams(ds)
        ds.PixelData = encapsulate([whole], fragments_per_frame=4, has_bot=offsets)
    table = "an offset table" if offsets else "no offset table"
    issues = (955, 1017, 1021)
    return Case(f"a frame in four fragments, {table}", issues, "refused as damaged", datasets, planes)


def _codestreams(ds: Dataset) -> list[bytes]:
    from pydicom.encaps import generate_frames

    return list(generate_frames(ds.PixelData, number_of_frames=1))


MULTIBAND_SECONDS = (0.0, 0.5, 1.0, 0.0, 0.5, 1.0)
SINGLE_BAND_SECONDS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)


def _multiband_times(fields: dict[str, Any], made: Made) -> Iterator[str]:
    stated = fields.get("SliceTiming")
    if stated is not None and not np.allclose(sorted(stated), sorted(MULTIBAND_SECONDS), atol=0.02):
        yield f"slice times up to {max(stated):g} s, of a repetition of 2 s"


def _first_slice_times() -> Case:
    """Return a multiband series whose first volume has the times of a series without: the later ones are right."""
    series = truth.series(4, 6, Manufacturer="SIEMENS", ScanningSequence="EP", MRAcquisitionType="2D")

    def edit(ds: FileDataset, time: int, slice_: int) -> None:
        seconds = 2 * time + (SINGLE_BAND_SECONDS if time == 0 else MULTIBAND_SECONDS)[slice_]
        ds.AcquisitionTime = f"1015{seconds:09.6f}"
        ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = time + 1, 4

    issues = (272, 656, 793)
    planes = _in_time(series)
    mistake = "slice times longer than the repetition"
    datasets = series.edited(edit).datasets
    return Case("first volume with other times", issues, mistake, datasets, planes, sidecar=_multiband_times)


def _private(ds: Dataset, group: int, creator: str, element: int, vr: str, value: Any) -> None:
    """Add a private element in block 11, where Siemens has them: dcm2niix looks for them nowhere else."""
    ds.add_new((group, 0x0011), "LO", creator)
    ds.add_new((group, 0x1100 | element), vr, value)


def _times_after_start() -> Case:
    """Return a multiband scan as of XA30: Acquisition Time is true, and (0021,1104) not, in the first volume."""
    series = truth.series(4, 6, Manufacturer="SIEMENS", ScanningSequence="EP", MRAcquisitionType="2D")

    def edit(ds: FileDataset, time: int, slice_: int) -> None:
        seconds = 2 * time + MULTIBAND_SECONDS[slice_]
        ds.AcquisitionTime = f"1015{seconds:09.6f}"
        stated = 2 * time + (SINGLE_BAND_SECONDS if time == 0 else MULTIBAND_SECONDS)[slice_]
        _private(ds, 0x0021, "SIEMENS MR SDI 02", 0x04, "DS", f"{stated:.3f}")
        ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = time + 1, 4

    planes = _in_time(series)
    issues = (303, 704, 875)
    mistake = "times of a series without multiband"
    name = "slice times wrong in the first volume"
    return Case(name, issues, mistake, series.edited(edit).datasets, planes, sidecar=_multiband_times)


def _three_dimensional_epi() -> Case:
    """Return a 3-D EPI: Repetition Time is that of an excitation, and the volumes follow each other in 2.4 s."""
    series = truth.series(4, 6, ScanningSequence="EP", MRAcquisitionType="3D", Manufacturer="SIEMENS")
    series.edited(lambda ds, time, _: setattr(ds, "AcquisitionTime", f"1015{2.4 * time:09.6f}"))
    series.edited(lambda ds, time, _: setattr(ds, "RepetitionTime", "80"))

    def repetition(fields: dict[str, Any], made: Made) -> Iterator[str]:
        stated = fields.get("RepetitionTime")
        if stated is not None and abs(stated - 2.4) > 0.01:
            yield f"RepetitionTime is {stated:g} s of 2.4 s"

    mistake = "the repetition of an excitation is that of the volumes"
    return Case("3-D EPI in time", (1024,), mistake, series.datasets, _in_time(series), sidecar=repetition)


def _stopped_scan() -> Case:
    series = truth.series(5, 6, clock=True, Manufacturer="SIEMENS")
    planes = _in_time(series)[:-3]
    issues = (236, 742)
    mistake = "slices of the last volume are lost"
    return Case(
        "a scan that was stopped", issues, mistake, series.datasets[:-3], planes, may_lack=frozenset({24, 25, 26})
    )


def _sagittal_slice_times() -> Case:
    """Return a sagittal series in time, acquired from one side to the other: times belong to the slices of the file."""
    series = truth.series(3, 5, orientation=make.SAGITTAL, ScanningSequence="EP", MRAcquisitionType="2D")

    def edit(ds: FileDataset, time: int, slice_: int) -> None:
        ds.AcquisitionTime = f"1015{2 * time + 0.4 * slice_:09.6f}"
        ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = time + 1, 3

    def times(fields: dict[str, Any], made: Made) -> Iterator[str]:
        stated = fields.get("SliceTiming")
        if stated is None:
            return
        normal = TO_RAS[:3, :3] @ np.cross(make.SAGITTAL[:3], make.SAGITTAL[3:])
        rising = float(made.image.affine[:3, 2] @ normal) > 0
        if not np.allclose(stated, np.arange(5) * 0.4 if rising else np.arange(5)[::-1] * 0.4, atol=0.02):
            yield "slice times belong to the slices from the other side"

    planes = _in_time(series)
    mistake = "slice times in reverse"
    return Case("sagittal slices in time", (797,), mistake, series.edited(edit).datasets, planes, sidecar=times)


DIRECTIONS = np.array([(0, 0, 0), (1, 0, 0), (0.6, 0.8, 0), (0, 0.6, 0.8), (0.48, -0.6, 0.64)])


def _directions_are(true: NDArray[np.float64]) -> Sidecar:
    """Return what compares a gradient table with directions in RAS+; a table that is left out says nothing wrong."""

    def check(fields: dict[str, Any], made: Made) -> Iterator[str]:
        stated = made.directions
        if stated is None:
            return
        if stated.shape != true.shape:
            yield f"{len(stated)} directions of {len(true)}"
        elif (away := 1 - np.abs((stated * true).sum(axis=1))[1:]).max() > 1e-3:
            yield f"a direction is {np.degrees(np.arccos(1 - away.max())):.0f} degrees away"

    return check


def _diffusion(
    orientation: make.Numbers, edit: Callable[[FileDataset, NDArray[np.float64]], None], **shared: Any
) -> truth.Truth:
    series = truth.series(len(DIRECTIONS), 4, orientation=orientation, clock=True, **shared)
    return series.edited(lambda ds, time, _: edit(ds, DIRECTIONS[time]))


def _canon_directions() -> Case:
    """Return directions along the axes of the image in Image Comments, and in the patient in the standard attribute."""
    axes = np.array([make.OBLIQUE[:3], make.OBLIQUE[3:], np.cross(make.OBLIQUE[:3], make.OBLIQUE[3:])])

    def edit(ds: FileDataset, direction: NDArray[np.float64]) -> None:
        b_value = 1000 if direction.any() else 0
        ds.DiffusionBValue = b_value
        ds.InPlanePhaseEncodingDirection = "COL"
        if b_value:
            ds.DiffusionGradientOrientation = list(map(float, direction @ axes))
        ds.ImageComments = f"b={b_value}({','.join(f'{value:.6f}' for value in direction)})"

    series = _diffusion(make.OBLIQUE, edit, Manufacturer="CANON_MEC", SoftwareVersions="V6.0")
    true = DIRECTIONS @ axes * (-1, -1, 1)
    mistake = "directions are turned twice"
    return Case(
        "Canon, directions twice", (1000,), mistake, series.datasets, _in_time(series), sidecar=_directions_are(true)
    )


def _ge_coronal_directions(encoded: str) -> Case:
    """Return directions along frequency, phase and slice, as GE states them (0019,10BB) to (0019,10BD)."""
    orientation = make.CORONAL
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)

    def edit(ds: FileDataset, direction: NDArray[np.float64]) -> None:
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        for element, value in zip((0xBB, 0xBC, 0xBD), direction, strict=True):
            block.add_new(element, "DS", f"{value:.6f}")
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
            0x39, "IS", [1000 if direction.any() else 0, 8, 0, 0]
        )
        ds.InPlanePhaseEncodingDirection = encoded

    series = _diffusion(orientation, edit, Manufacturer="GE MEDICAL SYSTEMS", ScanningSequence="EP")
    # The axes of frequency, phase and slice: signs as GE's engineers confirmed them with volunteers in that issue.
    true = DIRECTIONS @ np.stack([row, -column, -normal] if encoded == "COL" else [column, row, normal])
    return Case(
        f"GE, coronal, phase along {encoded}",
        (970,),
        "signs of directions",
        series.datasets,
        _in_time(series),
        sidecar=_directions_are(true * (-1, -1, 1)),
    )


def _several_series(key: Callable[[int, int], int], name: str, issues: Sequence[int], mistake: str) -> Case:
    """Return an acquisition that a scanner exports under several Series Instance UIDs: it must become one volume."""
    series = split_series(5, 4, key)

    def whole(fields: dict[str, Any], made: Made) -> Iterator[str]:
        if made.image.shape != (truth.COLUMNS, truth.ROWS, 4, 5):
            yield f"one of several volumes, with {' x '.join(map(str, made.image.shape))} voxels"

    return Case(name, tuple(issues), mistake, series.datasets, _in_time(series), sidecar=whole)


def _mirrored_volumes() -> Case:
    """Return epi_pepolar: the headers of mirrored volumes lie, and the planes are as they were acquired."""
    datasets = mirrored.polarity_series(2)
    planes = [
        replace(
            plane_of(ds, "RF"[index // 4 % 2], index // 4), values=mirrored.image(index // 4, index % 4).astype(float)
        )
        for index, ds in enumerate(datasets)
    ]
    return Case("GE, every second volume mirrored", (532,), "half of the volumes lie mirrored", datasets, planes)


def _bruker_matrix() -> Case:
    def edit(ds: FileDataset, direction: NDArray[np.float64]) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
        ds.DiffusionBValue = 1000.0 if direction.any() else 0.0
        ds.DiffusionDirectionality = "BMATRIX"
        written = (1000.0 * np.outer(direction, direction)).ravel()[:6]
        names = ("XX", "XY", "XZ", "YY", "YZ", "ZZ")
        values = {f"DiffusionBValue{name}": float(value) for name, value in zip(names, written, strict=True)}
        ds.DiffusionBMatrixSequence = [make.dataset(**values)]

    series = _diffusion(make.AXIAL, edit, Manufacturer="Bruker BioSpin MRI GmbH")
    true = _directions_are(DIRECTIONS * (-1, -1, 1))
    mistake = "no directions, or wrong ones"
    return Case("Bruker, shifted b-matrix", (265, 525), mistake, series.datasets, _in_time(series), sidecar=true)


def _uih_directions() -> Case:
    """Return directions along the image in the standard attribute, which has the patient's axes, and in (0065,1037)."""
    axes = np.array([make.OBLIQUE[:3], make.OBLIQUE[3:], np.cross(make.OBLIQUE[:3], make.OBLIQUE[3:])])

    def edit(ds: FileDataset, direction: NDArray[np.float64]) -> None:
        ds.DiffusionBValue = b_value = 1000.0 if direction.any() else 0.0
        ds.DiffusionDirectionality = "DIRECTIONAL" if b_value else "NONE"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "DIFFUSION"]
        block = ds.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x09, "FD", b_value)
        if b_value:
            ds.DiffusionGradientOrientation = list(map(float, direction))
            block.add_new(0x37, "FD", list(map(float, direction)))

    series = _diffusion(make.OBLIQUE, edit, Manufacturer="UIH")
    true = _directions_are(DIRECTIONS @ axes * (-1, -1, 1))
    mistake = "directions are not turned"
    return Case(
        "United Imaging, directions twice", (836, 993), mistake, series.datasets, _in_time(series), sidecar=true
    )


def _missing_b_values() -> Case:
    """Return a diffusion series some of whose slices state no weighting: they are as weighted as their neighbours."""
    lacking = {(2, 1), (3, 0), (3, 3)}
    series = _diffusion(make.AXIAL, lambda ds, direction: None, Manufacturer="SIEMENS")

    def edit(ds: FileDataset, time: int, slice_: int) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
        if (time, slice_) not in lacking:
            ds.DiffusionBValue = 1000.0 if time else 0.0
            if time:
                ds.DiffusionGradientOrientation = list(map(float, DIRECTIONS[time]))

    def weighted(fields: dict[str, Any], made: Made) -> Iterator[str]:
        file = made.path.with_name(re.sub(r"\.nii(\.gz)?$", ".bval", made.path.name))
        if file.exists() and made.image.ndim > 3 and (values := np.loadtxt(file, ndmin=1)).tolist()[1:] != [1000.0] * 4:
            yield f"b-values are {' '.join(f'{value:g}' for value in values)}"

    mistake = "slices without a b-value are volumes of b = 0"
    planes = _in_time(series)
    return Case(
        "b-values missing in some slices", (394,), mistake, series.edited(edit).datasets, planes, sidecar=weighted
    )


def _several_acquisitions() -> Case:
    """Return three contrast phases of a CT in one series, shifted against each other by half a slice."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    datasets: list[FileDataset] = []
    planes = []
    for phase in range(3):
        origin = (-20.0, -30.0, 40.0 + 1.25 * phase)
        pixels = make.pattern(8 + phase, make.ROWS, make.COLUMNS, seed=phase)
        for ds in make.ct_series(8 + phase, spacing=2.5, origin=origin, pixels=pixels, **uids):
            ds.InstanceNumber = len(datasets) + 1
            ds.AcquisitionNumber, ds.AcquisitionTime = phase + 1, f"1015{10 * phase:02}"
            datasets.append(ds)
            planes.append(plane_of(ds, str(phase)))
    return Case("three contrast phases in one series", (721,), "slices of several phases interleaved", datasets, planes)


def _interpolated_slices() -> Case:
    datasets = make.mr_series(12, Manufacturer="GE MEDICAL SYSTEMS", MRAcquisitionType="3D", spacing=1.25)
    for ds in datasets:
        ds.ImagesInAcquisition = 12
        ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x4F, "SS", 6)
    return _classic("GE, interpolated slices", [306, 355], "one volume of 12 slices is two of 6", datasets)


def _three_stacks() -> Case:
    """Return an enhanced image whose frames are in three stacks one above the other, in no order."""
    case = _enhanced("enhanced, three stacks", 839, "stacks are times of one volume", list(range(30)))
    [ds] = case.datasets
    order = np.random.default_rng(5).permutation(30)
    frames = ds.PerFrameFunctionalGroupsSequence
    places = make.stack_positions(30, make.SPACING_MM, make.ORIGIN_MM, make.AXIAL)
    planes = []
    for frame, place_ in enumerate(order):
        content, position = frames[frame].FrameContentSequence[0], frames[frame].PlanePositionSequence[0]
        content.StackID, content.InStackPositionNumber = str(place_ // 10 + 1), int(place_ % 10 + 1)
        content.DimensionIndexValues = [int(place_ // 10 + 1), int(place_ % 10 + 1)]
        del content.TemporalPositionIndex
        position.ImagePositionPatient = [make.decimal(value) for value in places[place_]]
        at = place(places[place_], make.AXIAL, make.PIXEL_SPACING_MM)
        planes.append(Plane(case.planes[frame].values, at))
    ds.DimensionIndexSequence = [make.dimension(0x00209056, 0x00209111), make.dimension(0x00209057, 0x00209111)]
    return replace(case, planes=planes)


def _exchanged_positions() -> Case:
    """Return slices two of which state each other's position: Slice Location and Instance Number deny it."""
    case = _classic("positions of two slices exchanged", (), "slices in each other's place", make.mr_series(9))
    for index, ds in enumerate(case.datasets):
        ds.SliceLocation = make.decimal(index * make.SPACING_MM)
    one, other = case.datasets[2], case.datasets[6]
    one.ImagePositionPatient, other.ImagePositionPatient = other.ImagePositionPatient, one.ImagePositionPatient
    return case


def _denied_distance() -> Case:
    """Return slices 5 mm apart whose positions are half as far apart as anything else says."""
    datasets = make.mr_series(8, spacing=5.0, SpacingBetweenSlices="5")
    case = _classic("positions at half the distance", (), "half of the distance between slices", datasets)
    for index, ds in enumerate(datasets):
        ds.SliceLocation = make.decimal(index * 5)
        x, y, z = make.ORIGIN_MM
        ds.ImagePositionPatient = [x, y, z + 2.5 * index]
    return case


def _high_bits() -> Case:
    case = _classic("12 bits at the high end of words", (), "values 16 times too large", make.ct_series(5))
    for ds in case.datasets:
        make.set_pixels(ds, ds.pixel_array.astype(np.uint16) << 4)
        ds.BitsStored = 12
    return case


def _two_fields_of_view() -> Case:
    """Return two reconstructions of one scan, in one series."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    pixels = make.pattern(6, make.ROWS, make.COLUMNS, seed=4)
    whole, part = make.ct_series(6, **uids), make.ct_series(6, pixel_spacing=(0.3, 0.2), pixels=pixels, **uids)
    for number, ds in enumerate(part, start=7):
        ds.InstanceNumber = number
    planes = [plane_of(ds, image) for image, own in (("whole", whole), ("part", part)) for ds in own]
    return Case("two fields of view", (), "times of one volume", [*whole, *part], planes)


def _two_energies() -> Case:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    pixels = make.pattern(6, make.ROWS, make.COLUMNS, seed=4)
    low, high = make.ct_series(6, KVP="80", **uids), make.ct_series(6, KVP="140", pixels=pixels, **uids)
    for number, ds in enumerate(high, start=7):
        ds.InstanceNumber = number
    planes = [plane_of(ds, str(ds.KVP)) for ds in [*low, *high]]
    return Case("two energies", (), "times of one volume", [*low, *high], planes)


CASES: dict[str, Callable[[], Case]] = {
    "overlapping_ct": _overlapping_ct,
    "descending_ct": _descending_ct,
    "doubled_end_and_a_gap": _doubled_end_and_a_gap,
    "large_gap": _large_gap,
    "rounded_positions": _rounded_positions,
    "uneven_ct": _uneven_ct,
    "times_in_indirect_order": _times_in_indirect_order,
    "numbers_that_lie": _numbers_that_lie,
    "equal_numbers": _equal_numbers,
    "enhanced_slices_first": _enhanced_slices_first,
    "enhanced_shuffled": _enhanced_shuffled,
    "slope_per_slice": _slope_per_slice,
    "many_slices": _many_slices,
    "nested_geometry": _nested_geometry,
    "magnitude_and_phase": _magnitude_and_phase,
    "four_dixon_images": _four_dixon_images,
    "noise_volume": _noise_volume,
    "fragments_with_offsets": partial(_fragments, offsets=True),
    "fragments_without_offsets": partial(_fragments, offsets=False),
    "first_slice_times": _first_slice_times,
    "times_after_start": _times_after_start,
    "three_dimensional_epi": _three_dimensional_epi,
    "stopped_scan": _stopped_scan,
    "sagittal_slice_times": _sagittal_slice_times,
    "canon_directions": _canon_directions,
    "ge_coronal_directions_along_rows": partial(_ge_coronal_directions, "ROW"),
    "ge_coronal_directions_along_columns": partial(_ge_coronal_directions, "COL"),
    "series_for_each_volume": partial(
        _several_series, by_volume, "a series for each volume", [236, 394, 471, 655], "a file for each volume"
    ),
    "series_for_each_slice": partial(
        _several_series, by_slice, "a series for each slice", [495], "a file for each slice"
    ),
    "mirrored_volumes": _mirrored_volumes,
    "bruker_matrix": _bruker_matrix,
    "uih_directions": _uih_directions,
    "missing_b_values": _missing_b_values,
    "several_acquisitions": _several_acquisitions,
    "interpolated_slices": _interpolated_slices,
    "three_stacks": _three_stacks,
    "exchanged_positions": _exchanged_positions,
    "denied_distance": _denied_distance,
    "high_bits": _high_bits,
    "two_fields_of_view": _two_fields_of_view,
    "two_energies": _two_energies,
}
"""What makes each case, with new UIDs each time."""


def row_of(case: Case, ours: Outcome) -> str:
    """Return the row of the table as far as dcm2niix has no part in it."""
    issues = ", ".join(f"[#{issue}](https://github.com/rordenlab/dcm2niix/issues/{issue})" for issue in case.issues)
    return f"| {case.name} | {issues} | {case.mistake} | {ours.state},"


def evidence_of(case: Case, ours: Outcome) -> list[str]:
    """Return the row of the second table about the volumes that voxelnode made of a case; none if they are right."""
    return [f"| {case.name} | {ours.why} | {ours.said} |"] if ours.why else []


def main() -> None:
    """Print the two tables of docs/project/wrong-series.md."""
    print(f"| Series | Issue | What went wrong | voxelnode, dcm2niix {version_of_dcm2niix()} |")
    print("|---|---|---|---|")
    evidence = []
    for make_case in CASES.values():
        case = make_case()
        ours, theirs = by_voxelnode(case), by_dcm2niix(case)
        print(row_of(case, ours), theirs.state, "|", flush=True)
        evidence += evidence_of(case, ours)
    print("\n| Series | Not right | voxelnode says |\n|---|---|---|", *evidence, sep="\n")


if __name__ == "__main__":
    main()

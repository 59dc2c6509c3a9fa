"""Builders of data sets for tests: small, complete, and savable as DICOM files.

Every builder returns `FileDataset`s with file meta information; ``ds.save_as(path, enforce_file_format=True)`` writes
them. Pixels are a fixed pattern, so that a plane that lies wrongly, or twice, is seen.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom.data
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, FileDataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ComprehensiveSRStorage,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
"""Instances that pydicom ships: many vendors and transfer syntaxes."""

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)  # a rotation about two axes, exact in few digits

Numbers = Sequence[float] | NDArray[Any]
DataSet = TypeVar("DataSet", bound=Dataset)

ROWS, COLUMNS = 16, 12
SPACING_MM = 2.5
PIXEL_SPACING_MM = (0.75, 0.5)
ORIGIN_MM = (-50.0, -40.0, 30.0)


def as_file(ds: Dataset) -> bytes:
    """The DICOM file of a data set."""
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def deflated(data: bytes) -> bytes:
    """A data set as PS3.5 A.5 deflates it, padded to an even length."""
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(data) + deflate.flush()
    return packed + b"\0" * (len(packed) % 2)


def misencoded(ds: FileDataset, announced: str, *, is_implicit: bool) -> bytes:
    """A file whose data set has another encoding than its transfer syntax announces."""
    ds.file_meta.TransferSyntaxUID = announced
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    stream = DicomBytesIO()
    stream.write(bytes(128) + b"DICM")
    write_file_meta_info(stream, ds.file_meta)
    stream.is_implicit_VR, stream.is_little_endian = is_implicit, True
    write_dataset(stream, ds)
    return stream.getvalue()


def instance(
    *,
    sop_class_uid: str = CTImageStorage,
    modality: str = "CT",
    study_uid: str | None = None,
    series_uid: str | None = None,
    sop_instance_uid: str | None = None,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> FileDataset:
    """Return an instance without pixels; `attributes` are keywords of the standard, None leaves one out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPInstanceUID = sop_instance_uid or generate_uid()
    _put(meta, "MediaStorageSOPClassUID", sop_class_uid)
    _put(meta, "TransferSyntaxUID", transfer_syntax_uid)
    _put(meta, "ImplementationClassUID", PYDICOM_IMPLEMENTATION_UID)
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": sop_class_uid,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": study_uid or generate_uid(),
        "SeriesInstanceUID": series_uid or generate_uid(),
        "PatientID": "TEST-1",
        "PatientName": "Voxel^Test",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyDate": "20240102",
        "StudyTime": "101500",
        "StudyID": "1",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Manufacturer": "Example",
        "Modality": modality,
        "SeriesNumber": 1,
        "InstanceNumber": 1,
    } | attributes
    for keyword, value in values.items():
        if value is not None:
            _put(ds, keyword, value)
    return ds


def _put(ds: Dataset, keyword: str, value: Any) -> None:
    """Set an element: a copy of the first one with this value, as pydicom checks and converts each for 15 to 40 µs."""
    kept = tuple(value) if isinstance(value, list) else value
    if not {str, int, UID}.issuperset(map(type, kept if isinstance(kept, tuple) else (kept,))):
        setattr(ds, keyword, value)
        return
    first = _element(keyword, kept)
    if first.VR == "PN":  # its value takes on the character set of the data set that it is written in
        setattr(ds, keyword, value)
        return
    element = object.__new__(DataElement)
    element.__dict__ = first.__dict__.copy()
    if isinstance(element.value, MultiValue):
        element._value = copy(element.value)
        element._value._list = [*element.value]
    ds._dict[element.tag] = element


@lru_cache(maxsize=4096, typed=True)
def _element(keyword: str, value: Any) -> DataElement:
    ds = Dataset()
    setattr(ds, keyword, list(value) if isinstance(value, tuple) else value)
    return ds[keyword]


def changed(ds: DataSet, **attributes: Any) -> DataSet:
    """Return a data set after these elements of it, by keyword, were set."""
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def saved(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write each data set to a file of its own, in a folder that need not be there, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets):
        paths.append(folder / f"{number:04}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def set_pixels(ds: DataSet, pixels: NDArray[Any]) -> DataSet:
    """Put native (rows, columns) or (frames, rows, columns), with a last axis of 3 for colour, into a data set."""
    colour = pixels.dtype == np.uint8 and pixels.shape[-1] == 3 and pixels.ndim >= 3
    plane = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    described = {
        "Rows": plane[0],
        "Columns": plane[1],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    for keyword, value in described.items():
        _put(ds, keyword, value)
    if colour:
        ds.PlanarConfiguration = 0
    if pixels.ndim - colour > 2:
        ds.NumberOfFrames = pixels.shape[0]
    data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    return ds


def pattern(slices: int, rows: int, columns: int, dtype: Any = np.int16, seed: int = 0) -> NDArray[Any]:
    """Return (slices, rows, columns) values from 0 to 1000 in which every plane is another."""
    noise = np.random.default_rng(seed).integers(0, 100, (slices, rows, columns))
    ramp = np.linspace(0, 800, rows * columns).reshape(rows, columns)
    return (ramp + noise + np.arange(slices)[:, None, None] % 100).astype(dtype)


def stack_positions(
    slices: int, spacing: float, origin: Numbers, orientation: Numbers, shear_mm: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.float64]:
    """Return (slices, 3) positions along the normal; `shear_mm` moves each next plane along its row and column."""
    row, column = np.asarray(orientation[:3], float), np.asarray(orientation[3:], float)
    step = np.cross(row, column) * spacing + row * shear_mm[0] + column * shear_mm[1]
    return np.asarray(origin, float) + np.arange(slices)[:, None] * step


def image_series(
    slices: int = 5,
    *,
    rows: int = ROWS,
    columns: int = COLUMNS,
    spacing: float = SPACING_MM,
    pixel_spacing: tuple[float, float] = PIXEL_SPACING_MM,
    orientation: Numbers = AXIAL,
    origin: Numbers = ORIGIN_MM,
    shear_mm: tuple[float, float] = (0.0, 0.0),
    positions: Numbers | None = None,
    pixels: NDArray[Any] | None = None,
    study_uid: str | None = None,
    series_uid: str | None = None,
    **attributes: Any,
) -> list[FileDataset]:
    """Return one classic instance for each slice, in order of position.

    `pixels`, (slices, rows, columns[, 3]) array: by default `pattern`.
    `positions`, (slices, 3) mm, LPS: in place of an even stack of `spacing` from `origin`.
    `attributes`: of every instance; a list gives one value to each (several values of one attribute: a string with
        backslashes).
    """
    places = stack_positions(slices, spacing, origin, orientation, shear_mm) if positions is None else positions
    planes = pattern(slices, rows, columns) if pixels is None else pixels
    shared = {"study_uid": study_uid or generate_uid(), "series_uid": series_uid or generate_uid()}
    frame_of_reference = generate_uid()
    out = []
    for index, (place, plane) in enumerate(zip(places, planes, strict=True)):
        own = {name: value[index] if isinstance(value, list) else value for name, value in attributes.items()}
        geometry = {
            "FrameOfReferenceUID": frame_of_reference,
            "ImagePositionPatient": [decimal(value) for value in place],
            "ImageOrientationPatient": [decimal(value) for value in orientation],
            "PixelSpacing": [decimal(value) for value in pixel_spacing],
            "SliceThickness": decimal(spacing),
            "InstanceNumber": index + 1,
        }
        out.append(set_pixels(instance(**(shared | geometry | own)), plane))
    return out


def corrected(ds: FileDataset) -> FileDataset:
    """Return the same instance with another description, and so with other bytes."""
    other = deepcopy(ds)
    other.SeriesDescription = "corrected"
    return other


def ct_series(slices: int = 5, **options: Any) -> list[FileDataset]:
    """Return an axial CT with slope 1 and intercept -1024; options as of `image_series`."""
    defaults = {
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "RescaleType": "HU",
        "ImageType": r"ORIGINAL\PRIMARY\AXIAL",
        "KVP": "120",
    }
    return image_series(slices, **(defaults | options))


def mr_series(slices: int = 5, **options: Any) -> list[FileDataset]:
    """Return an axial magnitude MR; options as of `image_series`."""
    defaults = {
        "sop_class_uid": MRImageStorage,
        "modality": "MR",
        "ImageType": r"ORIGINAL\PRIMARY\M\ND",
        "EchoTime": "30",
        "RepetitionTime": "2000",
        "EchoNumbers": 1,
    }
    return image_series(slices, **(defaults | options))


def siemens_dwi_series(slices: int = 3, **options: Any) -> list[FileDataset]:
    """Return an MR whose weighting is in Siemens' private elements alone, of which PS3.15 calls these safe."""
    series = mr_series(slices, Manufacturer="SIEMENS", **options)
    for ds in series:
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", "1000")
        block.add_new(0x0E, "FD", [1.0, 0.0, 0.0])
    return series


def tilted_ct_series(
    slices: int = 5, *, degrees: float = 15.0, spacing: float = 2.5, **options: Any
) -> list[FileDataset]:
    """Return a CT whose planes move down their columns as a tilted gantry makes them."""
    shear = spacing * float(np.tan(np.radians(degrees)))
    return ct_series(slices, spacing=spacing, shear_mm=(0.0, shear), GantryDetectorTilt=decimal(degrees), **options)


def gap_series(slices: int = 8, missing: Sequence[int] = (4,), **options: Any) -> list[FileDataset]:
    """Return a CT without the slices of these indices."""
    return [ds for index, ds in enumerate(ct_series(slices, **options)) if index not in missing]


def duplicate_series(slices: int = 5, *, again: int = 2, same_pixels: bool = True, **options: Any) -> list[FileDataset]:
    """Return a CT of which one position comes twice, under two SOP Instance UIDs."""
    series = ct_series(slices, **options)
    copy = deepcopy(series[again])
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.InstanceNumber = slices + 1
    if not same_pixels:
        set_pixels(copy, np.flip(pattern(1, copy.Rows, copy.Columns, seed=9)[0]))
    return [*series, copy]


def time_series(times: int = 3, slices: int = 4, **options: Any) -> list[FileDataset]:
    """Return a 4-D MR, time by time; unless told otherwise, only Acquisition Time tells them apart.

    Options are those of `image_series`, but a list gives one value to each time.
    """
    shared = {name: generate_uid() for name in ("study_uid", "series_uid", "FrameOfReferenceUID")}
    clock = {"AcquisitionTime": [f"1015{2 * time:02d}.0000" for time in range(times)]}
    out = []
    for time in range(times):
        own = {name: value[time] if isinstance(value, list) else value for name, value in (clock | options).items()}
        pixels = pattern(slices, options.get("rows", ROWS), options.get("columns", COLUMNS), seed=time + 1)
        out += mr_series(slices, **({"pixels": pixels} | shared | own))
    for number, ds in enumerate(() if "InstanceNumber" in options else out, start=1):
        ds.InstanceNumber = number
    return out


def localizer(slices: int = 3, **options: Any) -> list[FileDataset]:
    """Return three orientations in one series."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    frame_of_reference = generate_uid()
    return [
        ds
        for orientation in (AXIAL, SAGITTAL, CORONAL)
        for ds in mr_series(slices, orientation=orientation, FrameOfReferenceUID=frame_of_reference, **(uids | options))
    ]


def rgb_capture(rows: int = 8, columns: int = 10, frames: int | None = None, **attributes: Any) -> FileDataset:
    """Return a colour secondary capture without a place in the patient."""
    shape = (rows, columns, 3) if frames is None else (frames, rows, columns, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    ds = instance(sop_class_uid=SecondaryCaptureImageStorage, modality="OT", ConversionType="WSD", **attributes)
    set_pixels(ds, pixels)
    return ds


def structured_report(**attributes: Any) -> FileDataset:
    """Return a report: an instance without pixels."""
    ds = instance(sop_class_uid=ComprehensiveSRStorage, modality="SR", **attributes)
    ds.ValueType = "CONTAINER"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ContentDate, ds.ContentTime = "20240102", "101500"
    ds.ContentSequence = []
    return ds


def dataset(**attributes: Any) -> Dataset:
    """A data set without anything but `attributes`, valid or not, such as an identifier or the item of a sequence."""
    ds = Dataset()
    for keyword, value in attributes.items():
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
    return ds


def injection(start: str) -> Dataset:
    """Return an item of Radiopharmaceutical Information Sequence: 370 MBq of fluorine-18 at this time of day."""
    return dataset(RadiopharmaceuticalStartTime=start, RadionuclideTotalDose="370000000", RadionuclideHalfLife="6586.2")


def enhanced_mr(
    slices: int = 4,
    times: int = 1,
    *,
    orientation: Numbers = AXIAL,
    pixels: NDArray[Any] | None = None,
    order: Sequence[int] | None = None,
    **attributes: Any,
) -> FileDataset:
    """Return an enhanced MR of `slices` x `times` frames (PS3.3 C.7.6.16), times outermost unless `order` says else.

    `pixels`, (times * slices, rows, columns) array: in order of time, then slice.
    `order`: which of these frames comes first, second ... in the instance.
    """
    planes = pattern(times * slices, ROWS, COLUMNS) if pixels is None else pixels
    places = stack_positions(slices, SPACING_MM, ORIGIN_MM, orientation)
    order = range(times * slices) if order is None else [int(frame) for frame in order]
    ds = instance(
        sop_class_uid=EnhancedMRImageStorage,
        modality="MR",
        FrameOfReferenceUID=generate_uid(),
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        **attributes,
    )
    set_pixels(ds, planes[list(order)])
    ds.NumberOfFrames = len(planes)
    shared = Dataset()
    measures = dataset(PixelSpacing=[decimal(value) for value in PIXEL_SPACING_MM], SliceThickness=decimal(SPACING_MM))
    plane_orientation = dataset(ImageOrientationPatient=[decimal(value) for value in orientation])
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [plane_orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.DimensionIndexSequence = [
        dimension(0x00209057, 0x00209111),  # In-Stack Position Number
        dimension(0x00209128, 0x00209111),  # Temporal Position Index
    ]
    groups = []
    for frame in order:
        time, index = divmod(frame, slices)
        group, content, place = Dataset(), Dataset(), Dataset()
        content.StackID = "1"
        content.InStackPositionNumber = index + 1
        content.TemporalPositionIndex = time + 1
        content.DimensionIndexValues = [index + 1, time + 1]
        place.ImagePositionPatient = [decimal(value) for value in places[index]]
        group.FrameContentSequence = [content]
        group.PlanePositionSequence = [place]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    return ds


def derived_series() -> dict[str, Any]:
    """Arguments for an instance of highdicom: a series of its own, made by an example device."""
    return {
        "series_instance_uid": generate_uid(),
        "series_number": 2,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": "Example",
        "manufacturer_model_name": "Example",
        "software_versions": "1",
        "device_serial_number": "1",
    }


def dimension(pointer: int, group: int) -> Dataset:
    """Return an item of Dimension Index Sequence (0020,9222)."""
    return dataset(DimensionIndexPointer=pointer, FunctionalGroupPointer=group)


def decimal(value: float) -> str:
    """Return a Decimal String of at most 16 bytes (PS3.5 6.2), with as many digits as fit."""
    for digits in range(15, 0, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a Decimal String")


Polygon = Sequence[Sequence[float]] | NDArray[Any]


def contour(points: Polygon, images: Sequence[Dataset] = (), kind: str = "CLOSED_PLANAR") -> Dataset:
    """Return an item of Contour Sequence (PS3.3 C.8.8.6) from (N, 3) points in mm, LPS."""
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points)
    item.ContourData = [decimal(value) for point in points for value in point]
    if images:
        item.ContourImageSequence = [_reference(image) for image in images]
    return item


def structure_set(
    images: Sequence[Dataset],
    regions: Mapping[str, Sequence[Dataset]],
    *,
    frame_of_reference_uid: str | None = None,
    **attributes: Any,
) -> FileDataset:
    """Return a structure set on image series; `regions` are items of Contour Sequence by ROI name, numbered from 1."""
    first = images[0]
    shared = {"study_uid": first.StudyInstanceUID, "StructureSetLabel": "PLAN"}
    ds = instance(sop_class_uid=RTStructureSetStorage, modality="RTSTRUCT", **(shared | attributes))
    frame = Dataset()
    frame.FrameOfReferenceUID = frame_of_reference_uid or first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [Dataset()]
    [study] = frame.RTReferencedStudySequence
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = []
    for uid in dict.fromkeys(image.SeriesInstanceUID for image in images):
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ContourImageSequence = [_reference(image) for image in images if image.SeriesInstanceUID == uid]
        study.RTReferencedSeriesSequence.append(series)
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        definition, drawn, observation = Dataset(), Dataset(), Dataset()
        definition.ROINumber = drawn.ReferencedROINumber = observation.ReferencedROINumber = number
        definition.ReferencedFrameOfReferenceUID = frame.FrameOfReferenceUID
        definition.ROIName, definition.ROIGenerationAlgorithm = name, "MANUAL"
        drawn.ROIDisplayColor = [255, 0, number % 256]
        drawn.ContourSequence = list(contours)
        observation.ObservationNumber, observation.RTROIInterpretedType, observation.ROIInterpreter = (
            number,
            "ORGAN",
            "",
        )
        ds.StructureSetROISequence.append(definition)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(observation)
    return ds


def on_slice(image: Dataset, corners: Polygon) -> NDArray[np.float64]:
    """Return (N, 3) points in mm, LPS, from the columns and rows of (N, 2) corners on a slice."""
    rows_mm, columns_mm = map(float, image.PixelSpacing)
    cosines = np.array(image.ImageOrientationPatient, float)
    origin = np.array(image.ImagePositionPatient, float)
    columns, rows = np.asarray(corners, float).T
    points: NDArray[np.float64] = (
        origin + np.outer(columns * columns_mm, cosines[:3]) + np.outer(rows * rows_mm, cosines[3:])
    )
    return points


def _reference(image: Dataset) -> Dataset:
    return dataset(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


def content_item(relationship: str, value_type: str, concept: tuple[str, str, str] | None, **values: Any) -> Dataset:
    """Return a content item (PS3.3 C.17.3); `values` are keywords of the standard, its children `ContentSequence`."""
    item = dataset(RelationshipType=relationship, ValueType=value_type)
    if concept is not None:
        item.ConceptNameCodeSequence = [coded(*concept)]
    return changed(item, **values)


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """Return an item of a sequence of codes."""
    return dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def measured(concept: tuple[str, str, str], value: str, unit: str, *children: Dataset, **values: Any) -> Dataset:
    """Return a content item with a number in a unit of UCUM."""
    quantity = dataset(NumericValue=value, MeasurementUnitsCodeSequence=[coded(unit, "UCUM", unit)])
    numbers = {"MeasuredValueSequence": [quantity], "ContentSequence": list(children)}
    return content_item("CONTAINS", "NUM", concept, **(numbers | values))


def image_item(image: Dataset, relationship: str = "CONTAINS", **values: Any) -> Dataset:
    """Return a content item that refers to an instance; `values` are those of the reference."""
    reference = changed(_reference(image), **values)
    return content_item(relationship, "IMAGE", None, ReferencedSOPSequence=[reference])


def measurement_report(images: Sequence[Dataset], *content: Dataset, **attributes: Any) -> FileDataset:
    """Return a report with one measurement group (TID 1500) of these content items."""
    group = content_item("CONTAINS", "CONTAINER", ("125007", "DCM", "Measurement Group"), ContentSequence=list(content))
    return _document(
        images, [group], ("126000", "DCM", "Imaging Measurement Report"), ComprehensiveSRStorage, attributes
    )


def key_objects(images: Sequence[Dataset], *content: Dataset, **attributes: Any) -> FileDataset:
    """Return a key object selection of these images; `content` are other content items of its root."""
    items = [*content, *map(image_item, images)]
    title = ("113000", "DCM", "Of Interest")
    return _document(images, items, title, KeyObjectSelectionDocumentStorage, {"modality": "KO"} | attributes)


def _document(
    images: Sequence[Dataset],
    content: Sequence[Dataset],
    title: tuple[str, str, str],
    sop_class_uid: str,
    attributes: dict[str, Any],
) -> FileDataset:
    first = images[0]
    shared = {"sop_class_uid": sop_class_uid, "modality": "SR", "study_uid": first.StudyInstanceUID}
    ds = instance(**(shared | attributes))
    ds.ValueType, ds.CompletionFlag, ds.VerificationFlag = "CONTAINER", "COMPLETE", "UNVERIFIED"
    ds.ConceptNameCodeSequence = [coded(*title)]
    evidence, series = Dataset(), Dataset()
    evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = first.StudyInstanceUID, [series]
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ReferencedSOPSequence = [_reference(image) for image in images]
    ds.CurrentRequestedProcedureEvidenceSequence = [evidence]
    ds.ContentSequence = list(content)
    return ds

"""Pictures of images as a presentation state has them shown; DCMTK's dcmp2pgm is the oracle of grey values."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.pixels.utils import pack_bits

from node.children.decoding import PictureOrder
from node.extensions.dicomweb import softcopy
from node.extensions.dicomweb.presentation_states import NotPresented, presented_picture
from node.extensions.dicomweb.softcopy import COLOUR, GREYSCALE, PSEUDO_COLOUR
from node.volume.model import Array
from tests import make
from tests.programs import needs
from tests.web.conftest import Site, open_site

PNG = {"Accept": "image/png"}
STUDY, SERIES, STATES = "1.2.7", "1.2.7.1", "1.2.7.9"
ROWS, COLUMNS = 40, 60
RED = [35579, 53664, 50858]
"""CIELab of the red of sRGB, L 54.3, a 80.8, b 69.9, in 16 bits."""

RESCALED: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}


def part(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, given in attributes.items():
        setattr(ds, keyword, given)
    return ds


def table(first: int, bits: int, entries: Array) -> list[Dataset]:
    return [part(LUTDescriptor=[len(entries), first, bits], LUTData=entries.astype("<u2").tobytes())]


def window(centre: float, width: float, **more: Any) -> Dataset:
    return part(WindowCenter=centre, WindowWidth=width, **more)


def image() -> FileDataset:
    """A CT slice, whose own window and Photometric Interpretation must have no effect."""
    ds = make.ct_series(1, rows=ROWS, columns=COLUMNS, study_uid=STUDY, series_uid=SERIES)[0]
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.WindowCenter, ds.WindowWidth = 0, 1
    return ds


def state_of(*images: Dataset, **attributes: Any) -> FileDataset:
    """A presentation state of some images: the whole of each, in a window that shows them."""
    ds = make.instance(sop_class_uid=GREYSCALE, modality="PR", study_uid=STUDY, series_uid=STATES)
    ds.ContentLabel, ds.PresentationCreationDate, ds.PresentationCreationTime = "STATE", "20240102", "101500"
    references = [
        part(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in images
    ]
    ds.ReferencedSeriesSequence = [part(SeriesInstanceUID=SERIES, ReferencedImageSequence=references)]
    ds.DisplayedAreaSelectionSequence = [area((1, 1), (images[0].Columns, images[0].Rows))]
    ds.PresentationLUTShape = "IDENTITY"
    ds.SoftcopyVOILUTSequence = [window(-600, 900)]
    for keyword, given in (RESCALED | attributes).items():
        if given is None:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, given)
    return ds


def area(corner: tuple[int, int], opposite: tuple[int, int], **attributes: Any) -> Dataset:
    return part(
        DisplayedAreaTopLeftHandCorner=list(corner),
        DisplayedAreaBottomRightHandCorner=list(opposite),
        **({"PresentationSizeMode": "SCALE TO FIT", "PresentationPixelAspectRatio": [1, 1]} | attributes),
    )


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[Dataset, Dataset], Array]:
    """The picture of an image by a state."""

    def show(shown: Dataset, state: Dataset, frame_number: int = 1) -> Array:
        paths = tmp_path / "image.dcm", tmp_path / "state.dcm"
        for path, ds in zip(paths, (shown, state), strict=True):
            ds.save_as(path, enforce_file_format=True)
        return np.asarray(Image.open(BytesIO(presented_picture(*paths, PictureOrder(frame_number, "PNG")))))

    return show


SQUARES = (np.arange(1000) ** 2 // 250) % 4096
WHOLE_RANGE = ("nothing", "rescaled")
"""Where 16 bits are shown as 8."""

GREY: dict[str, dict[str, Any]] = {
    "nothing": {keyword: None for keyword in (*RESCALED, "SoftcopyVOILUTSequence")},
    "rescaled": {"SoftcopyVOILUTSequence": None},
    "window": {},
    "inverse": {"PresentationLUTShape": "INVERSE"},
    "table-of-interest": {"SoftcopyVOILUTSequence": [part(VOILUTSequence=table(-1024 % 65536, 12, SQUARES))]},
    "table-of-modality": {
        **dict.fromkeys(RESCALED),
        "ModalityLUTSequence": table(0, 16, np.arange(4096) * 16),
        "SoftcopyVOILUTSequence": [window(8000, 12000)],
    },
    "presentation-table": {"PresentationLUTShape": None, "PresentationLUTSequence": table(0, 10, SQUARES[::4] // 4)},
    "turned": {
        "ImageRotation": 90,
        "ImageHorizontalFlip": "Y",
        "DisplayedAreaSelectionSequence": [area((COLUMNS, ROWS), (1, 1))],
    },
    "upside-down": {
        "ImageRotation": 180,
        "ImageHorizontalFlip": "N",
        "DisplayedAreaSelectionSequence": [area((COLUMNS, ROWS), (1, 1))],
    },
}


@pytest.mark.parametrize("name", GREY)
def test_grey_values_are_those_of_dcmtk(name: str, tmp_path: Path, shown: Callable[[Dataset, Dataset], Array]) -> None:
    program, one = needs("dcmp2pgm"), image()
    mine = shown(one, state_of(one, **GREY[name]))
    command = [program, "-p", tmp_path / "state.dcm", tmp_path / "image.dcm", tmp_path / "theirs.pgm"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = np.asarray(Image.open(tmp_path / "theirs.pgm"))
    assert mine.shape == theirs.shape, told
    coarse = 4 if name == "presentation-table" else 1  # DCMTK rounds between the two tables
    assert np.abs(mine.astype(int) - theirs).max() <= coarse
    assert np.ptp(theirs) > (1 if name in WHOLE_RANGE else 60)


def test_a_shutter_hides_what_lies_outside_of_it(shown: Callable[[Dataset, Dataset], Array]) -> None:
    one = image()
    plain = shown(one, state_of(one))
    edges = {"LeftVertical": 5, "RightVertical": 30, "UpperHorizontal": 4, "LowerHorizontal": 33}
    rectangle = {f"Shutter{name}Edge": place for name, place in edges.items()}
    circle = {"CenterOfCircularShutter": [20, 30], "RadiusOfCircularShutter": 10}
    both = shown(
        one,
        state_of(
            one, ShutterShape=["RECTANGULAR", "CIRCULAR"], ShutterPresentationValue=257 * 77, **rectangle, **circle
        ),
    )
    down, along = np.ogrid[1 : ROWS + 1, 1 : COLUMNS + 1]
    seen = (along >= 5) & (along <= 30) & (down >= 4) & (down <= 33)
    seen &= (down - 20) ** 2 + (along - 30) ** 2 <= 100
    np.testing.assert_array_equal(both, np.where(seen, plain, 77))
    polygon = shown(
        one, state_of(one, ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[10, 10, 10, 50, 30, 50, 30, 10])
    )
    inside = (along >= 10) & (along <= 50) & (down >= 10) & (down <= 30)
    np.testing.assert_array_equal(polygon, np.where(inside, plain, 0))


def test_overlays_and_annotations_are_drawn_in_their_layers(shown: Callable[[Dataset, Dataset], Array]) -> None:
    """The picture is turned, and twice as large as the image."""
    one = image()
    bits = np.zeros((10, 10), np.uint8)
    bits[2:5, 1:8] = 1
    one.add_new((0x6002, 0x0010), "US", 10)
    one.add_new((0x6002, 0x0011), "US", 10)
    one.add_new((0x6002, 0x0050), "SS", [3, -1])  # its upper left corner is the pixel in row 3, column -1
    one.add_new((0x6002, 0x0100), "US", 1)
    one.add_new((0x6002, 0x0102), "US", 0)
    one.add_new((0x6002, 0x3000), "OW", pack_bits(bits))
    box = part(
        GraphicAnnotationUnits="PIXEL", GraphicType="POLYLINE", GraphicFilled="Y", GraphicDimensions=2,
        NumberOfGraphicPoints=5, GraphicData=[40.0, 20.0, 50.0, 20.0, 50.0, 30.0, 40.0, 30.0, 40.0, 20.0],
    )  # fmt: skip
    words = part(
        UnformattedTextValue="Grüße\r\n山", BoundingBoxAnnotationUnits="DISPLAY",
        BoundingBoxTopLeftHandCorner=[0.0, 0.5], BoundingBoxBottomRightHandCorner=[0.5, 1.0],
        BoundingBoxTextHorizontalJustification="LEFT",
    )  # fmt: skip
    magnified = area((1, ROWS), (COLUMNS, 1), PresentationSizeMode="MAGNIFY", PresentationPixelMagnificationRatio=2.0)
    state = state_of(
        one, ImageRotation=90, ImageHorizontalFlip="N", DisplayedAreaSelectionSequence=[magnified],
        SoftcopyVOILUTSequence=[window(5000, 100)],  # black
        GraphicLayerSequence=[
            part(GraphicLayer="GREY", GraphicLayerOrder=1, GraphicLayerRecommendedDisplayGrayscaleValue=257 * 99),
            part(GraphicLayer="RED", GraphicLayerOrder=2, GraphicLayerRecommendedDisplayCIELabValue=RED),
        ],
        GraphicAnnotationSequence=[
            part(GraphicLayer="RED", GraphicObjectSequence=[box]),
            part(GraphicLayer="GREY", TextObjectSequence=[words]),
        ],
    )  # fmt: skip
    state.add_new((0x6002, 0x1001), "CS", "GREY")
    state.SpecificCharacterSet = "ISO_IR 192"
    picture = shown(one, state)
    assert picture.shape[:2] == (2 * COLUMNS, 2 * ROWS)
    level = picture if picture.ndim == 2 else picture.max(axis=2)
    in_grey = np.isclose(level, 99, atol=12)
    assert in_grey[1 : 2 * 6 - 2, 2 * (ROWS - 7) + 1 : 2 * (ROWS - 4) - 1].all()  # rows 5 to 7, columns 1 to 6
    assert np.count_nonzero(level[COLUMNS:, :ROWS] > 30) > 20  # letters
    placed = level[2 * 40 : 2 * 50, 2 * (ROWS - 30) : 2 * (ROWS - 20)]
    assert placed.min() > 0, placed
    assert np.count_nonzero(level[:70, 30:60]) == 0


def test_colours_of_a_layer_are_those_of_the_profile_connection_space() -> None:
    red = part(GraphicLayerRecommendedDisplayCIELabValue=RED)
    assert np.allclose(softcopy._colour(red, "", "GraphicLayerRecommendedDisplayCIELabValue", 0), (255, 0, 0), atol=4)


def test_colour_and_pseudo_colour(shown: Callable[[Dataset, Dataset], Array]) -> None:
    capture = make.rgb_capture(rows=8, columns=10)
    in_colour = state_of(capture, **dict.fromkeys(RESCALED), SOPClassUID=COLOUR)
    in_colour.file_meta.MediaStorageSOPClassUID = COLOUR
    np.testing.assert_array_equal(shown(capture, in_colour), capture.pixel_array)
    with pytest.raises(NotPresented, match="a grey presentation state cannot be applied to a colour image"):
        shown(capture, state_of(capture))
    one = image()
    with pytest.raises(NotPresented, match="a colour presentation state cannot be applied to a grey image"):
        shown(one, state_of(one, SOPClassUID=COLOUR))
    ramp = np.arange(256) * 257
    palette = {
        f"{name}PaletteColorLookupTable{what}": given
        for name, entries in {"Red": ramp, "Green": ramp[::-1], "Blue": ramp * 0}.items()
        for what, given in {"Descriptor": [256, 0, 16], "Data": entries.astype("<u2").tobytes()}.items()
    }
    grey = shown(one, state_of(one)).astype(int)
    coloured = shown(one, state_of(one, SOPClassUID=PSEUDO_COLOUR, **palette)).astype(int)
    np.testing.assert_array_equal(coloured, np.stack([grey, 255 - grey, 0 * grey], axis=2))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "subtraction": ({"MaskSubtractionSequence": [part(MaskOperation="AVG_SUB")]}, "subtracts a mask"),
    "compound": (
        {"GraphicAnnotationSequence": [part(GraphicLayer="A", CompoundGraphicSequence=[part()])]},
        "compound graphics",
    ),
    "another image": ({"ReferencedSeriesSequence": []}, "does not refer to this image"),
    "no layer": ({"GraphicAnnotationSequence": [part(GraphicLayer="A")]}, "Graphic Layer Sequence"),
    "turned by half": ({"ImageRotation": 45}, "multiple of 90"),
    "no window": ({"SoftcopyVOILUTSequence": [part(WindowCenter=1)]}, "neither a window nor a table"),
    "huge": ({"DisplayedAreaSelectionSequence": [area((-60000, -60000), (60000, 60000))]}, "displayed area"),
    "shutter": ({"ShutterShape": "STAR"}, "Shutter Shape"),
    "bitmap": ({"ShutterShape": "BITMAP", "ShutterOverlayGroup": 0x6000}, "no Overlay Data"),
    "volumetric": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.6"}, "those of greyscale"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_refuses_the_picture(name: str, shown: Callable[[Dataset, Dataset], Array]) -> None:
    one, (attributes, reason) = image(), REFUSED[name]
    with pytest.raises(NotPresented, match=reason):
        shown(one, state_of(one, **attributes))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two images, and states of both, of the second, of one that is not here, and one that cannot be drawn."""
    site = open_site(tmp_path_factory.mktemp("states") / "root")
    images = make.ct_series(2, rows=ROWS, columns=COLUMNS, study_uid=STUDY, series_uid=SERIES)
    absent = deepcopy(images[0])
    absent.SOPInstanceUID = "1.2.7.1.99"
    states = [
        state_of(*images),
        state_of(images[1], PresentationLUTShape="INVERSE"),
        state_of(absent),
        state_of(images[0], ImageRotation=45),
    ]
    for number, state in enumerate(states, 1):
        state.SOPInstanceUID = state.file_meta.MediaStorageSOPInstanceUID = f"{STATES}.{number}"
    site.take(*images, *states)
    yield site
    site.close()


def test_a_presentation_state_is_rendered_as_its_images(site: Site) -> None:
    client = site.client()
    folder = f"/dicom-web/studies/{STUDY}/series/{STATES}/instances/{STATES}"

    def picture(path: str, **query: str) -> Array:
        answer = client.get(path, params=query, headers=PNG)
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(BytesIO(answer.content))).astype(int)

    first, second = picture(f"{folder}.1/rendered"), picture(f"{folder}.1/frames/2/rendered")
    assert (first != second).any()
    assert (picture(f"{folder}.1/frames/1/rendered") == first).all()
    np.testing.assert_array_equal(picture(f"{folder}.2/rendered"), 255 - second)
    assert picture(f"{folder}.1/thumbnail").shape == (171, 256)
    assert picture(f"{folder}.1/rendered", viewport="30,30").shape == (20, 30)
    tags = {client.get(f"{folder}.{number}/rendered", headers=PNG).headers["etag"] for number in (1, 2)}
    assert len(tags) == 2

    series = client.get(f"/dicom-web/studies/{STUDY}/series/{SERIES}/metadata").json()
    uids = [one["00080018"]["Value"][0] for one in series]
    by_uri = {
        "requestType": "WADO", "studyUID": STUDY, "seriesUID": SERIES, "contentType": "image/png",
        "presentationSeriesUID": STATES,
    }  # fmt: skip
    shown = picture("/dicom-web/wado", **by_uri, objectUID=uids[1], presentationUID=f"{STATES}.2")
    np.testing.assert_array_equal(shown, 255 - second)

    refused = {
        f"{folder}.1/frames/3/rendered": (404, "fewer frames"),
        f"{folder}.1/rendered?window=1,2": (400, "window"),
        f"{folder}.1/rendered?viewport=9,9,1,1,3,3": (400, "region"),
        f"{folder}.3/rendered": (404, "not here"),
        f"{folder}.4/rendered": (406, "multiple of 90"),
    }
    for path, (status, words) in refused.items():
        answer = client.get(path, headers=PNG)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
    for query, status in {
        "": 406,  # that state does not refer to this image
        "&windowCenter=1&windowWidth=2": 400,
        "&presentationSeriesUID=": 400,
        "&presentationUID=1.2": 404,
    }.items():
        url = "&".join(f"{name}={given}" for name, given in by_uri.items())
        answer = client.get(f"/dicom-web/wado?{url}&objectUID={uids[0]}&presentationUID={STATES}.2{query}", headers=PNG)
        assert answer.status_code == status, (query, answer.text)

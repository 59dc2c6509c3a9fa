"""What docs/conversion.md says of the files of a volume, against the files."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset

from node.conversion.naming import name_template
from node.conversion.offline import convert_folder
from node.conversion.out_folder import Layout
from node.volume.describe.bids_fields import BIDS_FIELDS
from node.writers.options import WriteOptions
from tests import make
from tests.converting import here

DOCUMENTS = Path(__file__).parents[3] / "docs"
DOCUMENT = (DOCUMENTS / "conversion.md").read_text(encoding="utf-8")


def named_in(title: str) -> set[str]:
    """Words set as code in one part of the document, for the sidecar also the fields of the document about them."""
    part = DOCUMENT.split(f"### {title}")[1].split("\n##")[0]
    fields = (DOCUMENTS / "sidecar.md").read_text(encoding="utf-8") if title == "Sidecar" else ""
    return set(re.findall(r"`([\w-]+)`", part)) | set(re.findall(r"^- `(\w+)`:", fields, flags=re.MULTILINE))


def converted(series: list[Dataset], folder: Path) -> dict[str, Any]:
    make.saved(series, folder / "in")
    options = WriteOptions(formats=("nifti", "analyze"), previews=True, projections=True, montages=True)
    return convert_folder([folder / "in"], folder / "out", options, here, layout=Layout(name_template("volume")))


def test_every_fact_of_a_sidecar_is_documented() -> None:
    assert {fact.name for fact in BIDS_FIELDS} <= named_in("Sidecar")


def test_every_key_of_sidecars_and_of_conversion_json_is_documented(tmp_path: Path) -> None:
    series = make.time_series(3, 4)
    for ds in series:
        ds.add(DataElement("DiffusionBValue", "FD", 500.0 * ((ds.InstanceNumber - 1) // 4)))
    series[0].ImagePositionPatient = None
    listing = converted([*series, make.structured_report()], tmp_path)
    assert listing.pop("files").keys() <= named_in("conversion.json")
    for name, entries in listing.items():
        assert {name, *(key for entry in entries for key in entry)} <= named_in("conversion.json")
    assert [name for name, entries in listing.items() if not entries] == ["not_chosen", "not_dicom"]
    for sidecar in (tmp_path / "out").rglob("volume*.json"):
        assert json.loads(sidecar.read_text()).keys() <= named_in("Sidecar")


def test_every_picture_is_documented(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 900, (6, 16, 12)).astype(np.int16)
    listing = converted(make.ct_series(6, pixels=pixels), tmp_path)
    names = {Path(str(entry["path"])).stem for entry in listing["volumes"] if entry["format"] == "png"}
    assert len(names) == 9
    for name in names:
        word = name.split("_")[1]
        assert f"volume_{word}" in DOCUMENT, name

"""Real instances through every option: no value that the profile takes out is found in the bytes of the result."""

import gzip
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from zipfile import ZipFile

import pytest
from pydicom import dcmread

from node.api import import_instances
from node.children.pseudonyms import PseudonymKey, new_key_file
from node.extensions.deidentify.deidentification import ALLOWABLE, Deidentification, NotDeidentified, RefusalReason
from node.extensions.deidentify.files import pieces
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option, Profile
from node.extensions.deidentify.ways import configured
from node.files.reading import read_instance
from node.index.look.study_search import StudyFilter
from node.receive.dicom_files import MediaFile, find_instances
from tests.leaks import leaks
from tests.make import PYDICOM_FILES
from tests.reference.real_series import PYDICOM_DATA
from tests.web.conftest import made_download, open_site
from tests.web.test_routes import run as run_routes

pytestmark = pytest.mark.corpus

KEY = PseudonymKey("test", bytes(range(32)))
EVERYTHING = tuple(option for option in Option if option is not Option.FULL_DATES)
CHOICES = [(), *((option,) for option in Option), EVERYTHING]
VOXELS, HEADER_BYTES = (".nii.gz", ".zraw", ".png"), 1 << 12
OF_SIDECARS = frozenset(("matrices", "orientations", "project"))
"""Words of descriptions in the corpus that warnings and options in every sidecar have as well ("projections")."""

NOT_CLEAN = {RefusalReason.STRUCTURED_REPORT, RefusalReason.ENCAPSULATED_DOCUMENT, RefusalReason.NO_IDENTITY}


def instances(corpus: Path) -> Iterator[Path]:
    for found in find_instances((corpus, PYDICOM_FILES, PYDICOM_DATA)):
        if isinstance(found, MediaFile) and found.path is not None:
            yield found.path


def one_of_each_folder(corpus: Path) -> Iterator[Path]:
    seen = set()
    for path in instances(corpus):
        if path.parent not in seen:
            seen.add(path.parent)
            yield path


def what_leaks(path: Path, chosen: tuple[Option, ...]) -> list[object]:
    """Return the leaks of an instance; none if it is refused for what it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = Profile(frozenset(chosen))
        ds = read_instance(path)
        if "TransferSyntaxUID" not in ds.file_meta:
            return []
        try:
            new = deidentified(ds, Deidentification(profile, KEY, frozenset(ALLOWABLE)))
        except NotDeidentified as error:
            return [] if error.reason in NOT_CLEAN else [(path, chosen, error)]
        new.pop("PixelData", None)
        return [(path, chosen, leak) for leak in leaks(dcmread(path), b"".join(pieces(new)), profile)]


@pytest.mark.slow
def test_nothing_leaks_from_a_choice_of_instances(corpus: Path) -> None:
    chosen = list(islice(one_of_each_folder(corpus), 0, None, 6))
    assert len(chosen) > 15
    assert [leak for path in chosen for options in ((), EVERYTHING) for leak in what_leaks(path, options)] == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: "+".join(chosen) or "basic")
def test_nothing_leaks_from_any_instance_by_any_option(corpus: Path, chosen: tuple[Option, ...]) -> None:
    assert [leak for path in instances(corpus) for leak in what_leaks(path, chosen)] == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the UIDs and values of old instances
def test_nothing_leaks_from_what_routes_send_and_from_what_downloads_contain(corpus: Path, tmp_path: Path) -> None:
    new_key_file(tmp_path / "key")
    how = {"key": tmp_path / "key", "retain": ["modified-dates", "patient", "device"], "allow": list(ALLOWABLE)}
    sent = tmp_path / "sent"
    sent.mkdir()
    tables = {
        "deidentify": {"trial": how | {"clean": ["descriptors"]}},
        "destinations": {"SHARE": {"kind": "folder", "folder": sent}},
        "routes": {"out": {"when": "instance-stored", "to": ["SHARE"], "deidentify": "trial"}},
    }
    with open_site(tmp_path / "root", tables) as site:
        run_routes(site, "out/SHARE")  # which receives events from now on
        import_instances((corpus, PYDICOM_FILES, PYDICOM_DATA), site.store.ingest)
        site.convert(seconds=900)
        run_routes(site, "out/SHARE")
        way = configured(site.services.settings, "trial")
        with site.store.index.reading() as index:
            originals = {
                way.uid(each.sop_instance_uid): (site.store.archive.path(each.key), way.uid(each.series_instance_uid))
                for each in index.files.stored()
            }
            studies = [study.study_instance_uid for study in index.studies.listed(StudyFilter(), limit=100_000)]
        routed = {
            dcmread(path, stop_before_pixels=True).SOPInstanceUID: path.read_bytes() for path in sent.rglob("*.dcm")
        }
        downloaded: dict[str, bytes] = {}
        volumes: dict[str, bytes] = {}
        left_out: Counter[str] = Counter()
        for study in studies:
            for content in ("dicom", "volumes"):
                order = {"study_instance_uids": [study], "profile": "trial", "content": content}
                answer = made_download(site.client(), "deidentified", 900, **order)
                site.client().delete(str(answer.url))
                with ZipFile(BytesIO(answer.content)) as archive:
                    for name in archive.namelist():
                        part = archive.read(name)
                        if name == "deidentification.json":
                            left_out.update(f"{content} {row['reason']}" for row in json.loads(part)["left_out"])
                        elif content == "dicom":
                            downloaded[Path(name).stem] = part
                        else:
                            series = Path(name).parts[2]
                            part = gzip.decompress(part) if name.endswith(".gz") else part
                            text = part[:HEADER_BYTES] if name.endswith(VOXELS) else part
                            volumes[series] = volumes.get(series, b"") + name.encode() + text
        assert routed == downloaded
        found = []
        for uid, (path, series) in originals.items():
            original = dcmread(path)
            if uid in downloaded:
                new = dcmread(BytesIO(downloaded[uid]))
                new.pop("PixelData", None)
                stream = BytesIO()
                new.save_as(stream)
                found += [(path, leak) for leak in leaks(original, stream.getvalue(), way.profile)]
            if series in volumes:
                of_volume = leaks(original, volumes[series], way.profile)
                found += [(path, leak) for leak in of_volume if leak.value.casefold() not in OF_SIDECARS]
        print(f"{len(originals)} instances, {len(downloaded)} copies, {len(volumes)} series with volumes, {left_out}")
        assert found == []
        refused = sum(count for what, count in left_out.items() if what.startswith("dicom"))
        assert len(downloaded) + refused == len(originals)

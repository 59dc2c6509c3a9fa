"""Everything that reads volumes, where only the object store has them."""

import datetime as dt
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from node.extensions.bids.sidecars import NiftiCopy
from node.extensions.bids.sources import IndexSource
from node.extensions.channels.settings import CommandSettings
from node.extensions.object_store.bucket import configured_store
from node.extensions.object_store.kind import fetching
from node.extensions.object_store.uploads import ObjectUploads
from node.extensions.projects.export import export
from node.index.reading import reading
from node.index.rows.records import Lane
from node.notify.notifier import HookWorker
from tests import make
from tests.receivers import channel_of
from tests.web.conftest import Site, open_site

pytestmark = pytest.mark.slow

STUDY, SERIES = "1.2.3", "1.2.3.1"
PLACE = f"/studies/{STUDY}/series/{SERIES}"


class Far(NamedTuple):
    """A site whose volumes are in its store alone, and their bytes by their names."""

    site: Site
    made: dict[str, bytes]
    store: Path


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    folder = tmp_path_factory.mktemp("far")
    (folder / "store").mkdir()
    with open_site(folder / "root", storage={"url": f"file://{folder}/store", "cache_bytes": 0}) as site:
        site.store.index.deliveries.begin("hook", {Lane("hook", "copy"): ("volume-written",)})
        site.take(*make.ct_series(3, StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES))
        site.convert()
        made = {path.name: path.read_bytes() for path in site.root.glob("volumes/*/*/*/*")}
        remote = site.store.archive.remote
        uploads = ObjectUploads(site.store.archive, remote, site.store.index, site.store.metrics)
        while uploads.step() == 0.0:
            pass
        forget(site)
        yield Far(site, made, folder / "store")


def forget(site: Site) -> None:
    """Remove all copies, as if they had not been used for long."""
    remote = site.store.archive.remote
    remote.stays_seconds = 0.0
    remote.trim()
    remote.stays_seconds = 60.0
    assert not [path for path in site.root.glob("volumes/*/*/*/*") if path.is_file()]


def test_pages_and_rest_fetch_what_they_send(far: Far) -> None:
    site, made, stored = far
    client = site.client()
    for name in made:
        assert client.get(f"{PLACE}/files/1/{name}").content == made[name]
    forget(site)
    assert client.get(f"{PLACE}/files/1/volume.mhd/reduced").status_code == 200
    forget(site)
    assert client.get(f"{PLACE}/thumbnails/1/volume_thumbnail.png").headers["content-type"] == "image/webp"
    page = client.get(PLACE, headers={"Accept": "text/html"})
    assert all(name in page.text for name in ("volume.nii.gz", "volume.json", "volume.zraw"))
    forget(site)
    packed = zipfile.ZipFile(BytesIO(client.get(f"/studies/{STUDY}/volumes.zip", params={"format": "all"}).content))
    assert {packed.read(name) for name in packed.namelist()} >= {made[name] for name in made if name != "volume.mhd"}
    forget(site)
    [volume] = client.get("/api/v1/volumes", params={"format": "nifti"}).json()["items"]
    assert client.get(volume["url"]).content == made["volume.nii.gz"]
    forget(site)

    stored.rename(stored.with_name("elsewhere"))
    assert client.get(volume["url"]).status_code == 503
    assert client.get(f"{PLACE}/files/1/volume.json").status_code == 503
    stored.with_name("elsewhere").rename(stored)
    [lost] = stored.glob("volumes/*/*/*/volume.nii.gz")
    lost.unlink()
    assert client.get(volume["url"]).status_code == 410
    assert client.get(f"{PLACE}/files/1/volume.nii.gz").status_code == 410
    lost.write_bytes(made["volume.nii.gz"])


def test_hooks_data_sets_and_exports_fetch_what_they_read(far: Far, tmp_path: Path) -> None:
    site, made, stored = far
    archive, index = site.store.archive, site.store.index
    now = [index.now()]
    hook = CommandSettings(on=("volume-written",), command=("cp", "-r", "{folder}", str(tmp_path / "copy")))
    worker = HookWorker(
        "copy", hook, channel_of("copy", hook), index, site.store.metrics, site.store.audit, "VOXELNODE",
        site.store.results, lambda: now[0], held=archive.held,
    )  # fmt: skip
    forget(site)
    stored.rename(stored.with_name("elsewhere"))
    worker.work()
    assert not (tmp_path / "copy").exists()  # it is never given a path without a file
    stored.with_name("elsewhere").rename(stored)
    now[0] += dt.timedelta(hours=1)
    worker.work()
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == made
    forget(site)

    store = configured_store(site.services.settings.storage)
    with reading(site.root) as view, fetching(site.root, store) as local:
        [series] = IndexSource(view, local).series_of([1])
        [volume] = series.volumes
        assert volume.local(volume.file.with_name("volume.json")).read_bytes() == made["volume.json"]
        NiftiCopy(volume.file, volume.sha256, False, volume.local).write(tmp_path / "copy.nii.gz", link=False)
    assert (tmp_path / "copy.nii.gz").read_bytes() == made["volume.nii.gz"]
    assert export(site.root, tmp_path / "export", open_files=lambda: fetching(site.root, store)).absent == ()
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").glob("volumes/*/*/*/*")} == made

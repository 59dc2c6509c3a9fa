"""OHIF from its npm package, below our root and in a browser: what was sent over C-STORE is seen."""

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator

from node.association.client.send import send_files
from node.extensions.ohif.package import OHIF, NotInstalled, folder_of, install_ohif, installed
from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run
from tests.web.conftest import PASSWORD, Site

pytestmark = pytest.mark.slow

SECONDS = 60

COMPRESSED = {f'multipart/related; type="{kind}"; ' for kind in ("image/jls", "image/jphc")}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tarball of the pinned version, from npm or its cache."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "pack", f"{OHIF.name}@{OHIF.version}", "--prefer-offline", "--silent", "--pack-destination", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    found = list(folder.glob("*.tgz"))
    if not found:
        pytest.skip(f"OHIF is not installed: npm cannot fetch it: {done.stderr.strip()[-200:]}")
    return found[0]


@pytest.fixture(scope="module")
def root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that OHIF was installed below by the command."""
    root = tmp_path_factory.mktemp("ohif") / "root"
    done = run("viewers", "install", "ohif", "--from", package, "--root", root)
    assert done.returncode == 0, done.stderr
    assert OHIF.version in done.stdout
    return root


def sent_series(served: Served, folder: Path) -> str:
    """Send a CT of twelve slices over an association; returns its Study Instance UID."""
    series = make.ct_series(12, rows=64, columns=64)
    send_files(make.saved(series, folder), served.address, "SCANNER")
    return str(series[0].StudyInstanceUID)


def grey_levels(canvas: Locator) -> int:
    """How many levels of grey the middle of a canvas shows; one: it is blank."""
    with Image.open(BytesIO(canvas.screenshot())) as picture:
        grey = np.asarray(picture.convert("L"))
    height, width = grey.shape
    return len(np.unique(grey[height // 3 : -height // 3, width // 3 : -width // 3]))


@pytest.mark.slow
def test_ohif_shows_a_study_that_was_sent_over_c_store(root: Path, browser: Browser, tmp_path: Path) -> None:
    with Served(root) as served:
        url = served.process.stdout.readline().split()[-1]
        study = sent_series(served, tmp_path)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, base_url=url)
        refused: list[str] = []
        kinds: set[str] = set()
        page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
        page.on("response", lambda answer: kinds.add(answer.headers["content-type"]) if "/frames/" in answer.url else 0)
        page.on(
            "request",
            lambda request: (
                refused.append(request.url)
                if url not in request.url and "blob:" not in request.url and "data:" not in request.url
                else None
            ),
        )
        page.on("console", lambda line: refused.append(line.text) if "Security Policy" in line.text else None)
        page.goto(f"ohif/viewer?StudyInstanceUIDs={study}")
        canvas = page.locator("canvas.cornerstone-canvas").first
        canvas.wait_for(timeout=SECONDS * 1000)
        until(lambda: grey_levels(canvas) > 50, SECONDS, "a picture of the slice")
        page.screenshot(path=tmp_path / "ohif.png")
        page.goto("ohif/")
        page.get_by_text("Voxel").first.wait_for(timeout=SECONDS * 1000)
        page.close()
        assert refused == []
        assert {kind.partition("boundary")[0] for kind in kinds} <= COMPRESSED
        assert kinds


@pytest.mark.slow
def test_ohif_shows_pictures_to_who_has_logged_in(root: Path, guarded: Site, browser: Browser) -> None:
    shutil.copytree(folder_of(root), folder_of(guarded.root))
    series = make.ct_series(3, rows=64, columns=64)
    guarded.take(*series)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=guarded.url)
    assert context.request.post("/login", form={"name": "reader", "password": PASSWORD}).ok
    page = context.new_page()
    page.goto(f"/ohif/viewer?StudyInstanceUIDs={series[0].StudyInstanceUID}")
    canvas = page.locator("canvas.cornerstone-canvas").first
    canvas.wait_for(timeout=SECONDS * 1000)
    until(lambda: grey_levels(canvas) > 50, SECONDS, "a picture of the slice")
    context.close()


def test_every_file_lies_below_our_path_and_nothing_is_loaded_from_elsewhere(root: Path) -> None:
    folder = folder_of(root)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert 'src="/ohif/app-config.js"' in page
    assert all(path.startswith("/ohif/") for path in _attributes(page))
    assert not list(folder.rglob("*.map"))
    assert not (folder / "ort").exists()
    for script in folder.glob("*.js"):
        assert b'__webpack_require__.p = "/";' not in script.read_bytes(), script.name
    manifest = installed(root)
    assert manifest["version"] == OHIF.version
    assert all((folder / name).is_file() for name in manifest["files"])


def _attributes(page: str) -> list[str]:
    return re.findall(r'(?:href|src)="(/[^"]*)"', page)


def test_files_are_served_with_a_policy_of_their_own_and_other_paths_lead_to_the_page(root: Path, site: Site) -> None:
    client = site.client()
    assert client.get("/ohif/").status_code == 404
    shutil.copytree(folder_of(root), folder_of(site.root))
    for path in (
        "/ohif/",
        "/ohif",
        "/ohif/viewer?StudyInstanceUIDs=1.2.3",
        "/ohif/..%2f..%2findex.sqlite",
        "/ohif/voxelnode.json",
    ):
        response = client.get(path)
        assert response.headers["content-type"].startswith("text/html"), path
        assert "OHIF" in response.text
    script = client.get("/ohif/app-config.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "script-src 'self'" in script.headers["content-security-policy"]
    assert "'unsafe-inline'" not in script.headers["content-security-policy"].partition("style-src")[0]
    assert client.get("/ohif/app-config.js", headers={"If-None-Match": script.headers["etag"]}).status_code in (
        200,
        304,
    )


def test_a_package_that_is_another_one_is_refused_and_nothing_changes(package: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tgz"
    wrong.write_bytes(package.read_bytes()[:-1] + b"x")
    with pytest.raises(NotInstalled, match="digest"):
        install_ohif(tmp_path / "root", wrong, "https://registry.npmjs.org/")
    with pytest.raises(NotInstalled, match="cannot be read"):
        install_ohif(tmp_path / "root", tmp_path / "none.tgz", "")
    assert installed(tmp_path / "root") is None
    assert not list(tmp_path.glob("root/viewers/*"))


def test_a_registry_that_cannot_be_reached_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="--from"):
        install_ohif(tmp_path, None, "http://127.0.0.1:9/")


@pytest.mark.parametrize(
    "name", ["package/dist/../../../evil.js", "package/dist//evil.js", "/package/dist/evil.js", "package/dist/a b.js"]
)
def test_no_file_of_a_package_leads_out_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = packed(tmp_path, {name: b"x"})
    pinned_as(monkeypatch, package)
    with pytest.raises(NotInstalled):
        install_ohif(tmp_path / "root", package, "")
    assert not list(tmp_path.rglob("evil.js"))
    assert not list(tmp_path.glob("root/viewers/*"))


def test_a_package_that_the_patch_is_not_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(tmp_path, {"package/dist/index.html": b"<html></html>", "package/dist/app.js": b"1"})
    pinned_as(monkeypatch, package)
    with pytest.raises(NotInstalled, match="patch"):
        install_ohif(tmp_path / "root", package, "")


def test_links_in_a_package_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(tmp_path, {"package/dist/app.js": b'__webpack_require__.p = "/";'}, link="package/dist/link.js")
    pinned_as(monkeypatch, package)
    with pytest.raises(NotInstalled):  # there is no page
        install_ohif(tmp_path / "root", package, "")
    assert not list(tmp_path.glob("root/viewers/*"))


def test_the_command_takes_the_viewer_away(root: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_of(root), folder_of(tmp_path))

    assert folder_of(tmp_path).is_dir()
    assert "ohif removed" in run("viewers", "remove", "ohif", "--root", tmp_path, check=True).stdout
    assert not folder_of(tmp_path).exists()


def packed(folder: Path, files: dict[str, bytes], link: str = "") -> Path:
    """A tarball with these files, and one link to the password file."""
    package = folder / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return package


def pinned_as(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    """Let a tarball of ours be the one that is pinned."""
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    monkeypatch.setattr("node.extensions.ohif.package.OHIF", replace(OHIF, integrity=f"sha512-{digest}"))

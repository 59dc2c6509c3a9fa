"""``voxelnode viewers install|remove``: viewers that are not part of the node, at a pinned version and digest.

OHIF is installed from its npm package. Its files expect to be at the root of a site and are patched for `BASE`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from node.api import Commands, Root, VoxelnodeError, counted

if TYPE_CHECKING:
    from tarfile import TarInfo

NPM_REGISTRY = "https://registry.npmjs.org/"

app = Commands(help="Install viewers beside the web pages.", no_args_is_help=True)


Name = Annotated[Literal["ohif"], typer.Argument(metavar="VIEWER", help="Name of the viewer.")]


@app.command()
def install(
    viewer: Name,
    package: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="npm tarball of the viewer, for machines without Internet."),
    ] = None,
    registry: Annotated[
        str, typer.Option(metavar="URL", envvar="npm_config_registry", help="npm registry to download from.")
    ] = NPM_REGISTRY,
    *,
    root: Root,
) -> None:
    """Install a viewer under the root.

    Downloads the pinned version and checks its digest. A running node serves it at once.
    """
    count = install_ohif(root.folder, package, registry)
    print(f"installed {OHIF.name} {OHIF.version}, {counted(count, 'file')}; the node serves it at {BASE}")


@app.command()
def remove(viewer: Name, root: Root) -> None:
    """Remove a viewer."""
    print(f"{viewer} {'removed' if remove_ohif(root.folder) else 'is not installed'}")


BASE = "/ohif/"
"""URL path of OHIF."""

MANIFEST = "voxelnode.json"
"""File in the folder of a viewer, written last: package, version, and the files that may be served."""

MAX_PACKAGE_BYTES = 200_000_000
MAX_BYTES = 1_000_000_000
MAX_FILES = 10_000
CHUNK_BYTES = 1 << 20


class NotInstalled(VoxelnodeError):
    """The viewer was not installed; a previous installation is unchanged."""


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package at one version; `integrity` is npm's SHA-512 of its tarball (Subresource Integrity)."""

    name: str
    version: str
    integrity: str

    @property
    def tarball(self) -> str:
        """The path of the tarball in a registry."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


OHIF = Package(
    "@ohif/app",
    "3.13.2",
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
)

LEFT_OUT = re.compile(r"ort/|sw\.js$|init-service-worker\.js$|_headers$|_redirects$|.*\.map$")
"""Files that are not installed: neural networks (136 MB), source maps, and a service worker with a remote library."""

CONFIG = f"""window.PUBLIC_URL = "{BASE}";
window.browserImportFunction = module => import(module);
window.config = {{
  routerBasename: "{BASE.rstrip("/")}",
  extensions: [],
  modes: [],
  customizationService: {{ global: {{ "ohif.tours": {{ $set: [] }} }} }},
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  maxNumRequests: {{ interaction: 100, thumbnail: 5, prefetch: 6 }},
  showErrorDetails: "always",
  defaultDataSourceName: "voxelnode",
  dataSources: [
    {{
      namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
      sourceName: "voxelnode",
      configuration: {{
        friendlyName: "voxelnode",
        name: "voxelnode",
        qidoRoot: `${{window.location.origin}}/dicom-web`,
        wadoRoot: `${{window.location.origin}}/dicom-web`,
        qidoSupportsIncludeField: true,
        imageRendering: "wadors",
        thumbnailRendering: "wadors",
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        singlepart: "bulkdata,pdf",
        bulkDataURI: {{ enabled: true }},
        omitQuotationForMultipartRequest: true,
        acceptHeader: [  // as stored if that is compressed, else compressed for us, else as stored
          "multipart/related; type=image/*",
          "multipart/related; type=image/jphc",
          "multipart/related; type=image/jls",
          "multipart/related; type=application/octet-stream; transfer-syntax=*",
        ],
      }},
    }},
  ],
  httpErrorHandler: error => console.warn("HTTP", error.status),
}};
"""
"""OHIF's ``app-config.js``: one data source, this node."""


def folder_of(root: Path) -> Path:
    """Return the folder of OHIF under a root, whether it exists or not."""
    return root.absolute() / "viewers" / "ohif"


def installed(root: Path) -> dict[str, object] | None:
    """Return ``package``, ``version`` and ``files`` of the installation, or None if it is missing or incomplete."""
    try:
        manifest = json.loads((folder_of(root) / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def install_ohif(root: Path, package: Path | None, registry: str) -> int:
    """Install OHIF under a root, replacing any previous version; return the number of files.

    `package`: the npm tarball; None: fetch it.
    `registry`: URL of an npm registry.

    Raises NotInstalled: the package cannot be fetched or read, is a different one, or has unexpected files.
    """
    with _opened(package) if package is not None else _fetched(OHIF, registry) as stream:
        _require_digest(stream, OHIF)
        target = folder_of(root)
        staging = target.with_name(f"ohif.{uuid.uuid4().hex}.part")
        try:
            staging.mkdir(mode=0o700, parents=True)
            files = sorted(_unpacked(stream, staging))
            _patch(staging, files)
            manifest = {"package": OHIF.name, "version": OHIF.version, "files": files}
            (staging / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            os.rename(staging, target)
        except OSError as error:
            raise NotInstalled(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return len(files)


def remove_ohif(root: Path) -> bool:
    """Remove OHIF; return whether it was installed."""
    existed = folder_of(root).exists()
    shutil.rmtree(folder_of(root), ignore_errors=True)
    return existed


def _opened(package: Path) -> IO[bytes]:
    try:
        return package.open("rb")
    except OSError as error:
        raise NotInstalled(f"{package} cannot be read: {error.strerror}") from error


def _fetched(package: Package, registry: str) -> IO[bytes]:
    """Fetch the tarball into a file that is deleted when it is closed."""
    import httpx2  # only needed here

    url = f"{registry.rstrip('/')}/{package.tarball}"
    file = TemporaryFile()  # noqa: SIM115 - the reader closes it
    try:
        with httpx2.stream("GET", url, follow_redirects=True, timeout=60) as response:
            response.raise_for_status()
            for piece in response.iter_bytes(CHUNK_BYTES):
                file.write(piece)
                if file.tell() > MAX_PACKAGE_BYTES:
                    raise NotInstalled(f"{url} is larger than {MAX_PACKAGE_BYTES} bytes")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        file.close()
        raise NotInstalled(
            f"{url} cannot be fetched: {error}. Fetch it elsewhere with `npm pack {package.name}@{package.version}`, "
            "and install it with --from"
        ) from error
    except BaseException:
        file.close()
        raise
    return file


def _require_digest(stream: IO[bytes], package: Package) -> None:
    digest = hashlib.sha512()
    stream.seek(0)
    while piece := stream.read(CHUNK_BYTES):
        digest.update(piece)
    stream.seek(0)
    integrity = f"sha512-{base64.b64encode(digest.digest()).decode('ascii')}"
    if integrity != package.integrity:
        raise NotInstalled(
            f"this is not {package.name} {package.version} as published on npm: its digest is {integrity}, not "
            f"{package.integrity}. Fetch it again with `npm pack {package.name}@{package.version}`"
        )


def _unpacked(stream: IO[bytes], folder: Path) -> Iterator[str]:
    """Unpack the files of the package into `folder`, never outside of it; yield their names."""
    import tarfile  # here, because a start of the node needs only what is installed

    total = count = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:gz") as archive:
            for member in archive:
                name = _installed_name(member)
                if name is None:
                    continue
                total, count = total + member.size, count + 1
                if total > MAX_BYTES or count > MAX_FILES:
                    raise NotInstalled("the package is larger than the limit")
                source = archive.extractfile(member)
                if source is None:
                    continue
                path = folder / name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with source, path.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
                yield name
    except (tarfile.TarError, EOFError) as error:
        raise NotInstalled(f"the package is damaged: {error}") from error


def _installed_name(member: TarInfo) -> str | None:
    """Return the name of a regular file under ``dist``, or None for members that are not installed."""
    parts = PurePosixPath(member.name).parts
    if not member.isfile() or parts[:2] != ("package", "dist") or len(parts) < 3:
        return None
    if any(part in ("", ".", "..") or not re.fullmatch(r"[\w.@+-]+", part) for part in parts):
        raise NotInstalled("the package contains a file outside of its folder")
    name = "/".join(parts[2:])
    return None if LEFT_OUT.match(name) else name


def _patch(folder: Path, files: list[str]) -> None:
    """Patch the files for `BASE`, with our configuration and without inline scripts.

    Raises NotInstalled if they are not the files that the patch was made for.
    """
    patched = 0
    for name in files:
        path = folder / name
        if name.endswith(".js") and "/" not in name:
            patched += _replace(path, b'__webpack_require__.p = "/";', f'__webpack_require__.p = "{BASE}";'.encode())
        elif name.endswith(".css") and "/" not in name:
            _replace(path, b"url(/", f"url({BASE}".encode())
    (folder / "app-config.js").write_text(CONFIG, encoding="utf-8")
    page = folder / "index.html"
    html = page.read_text(encoding="utf-8")
    html, scripts = re.subn(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    html = re.sub(r'<script[^>]*src="/init-service-worker\.js"[^>]*></script>', "", html)
    html = re.sub(r'<link rel="manifest"[^>]*>', "", html)  # browsers request it without the session cookie
    html, links = re.subn(r'(href|src)="/', rf'\1="{BASE}', html)
    page.write_text(html, encoding="utf-8")
    if not patched or not scripts or not links:
        raise NotInstalled("the patch does not match the files of the package")


def _replace(path: Path, old: bytes, new: bytes) -> int:
    """Replace bytes in a file; return the number of replacements."""
    data = path.read_bytes()
    count = data.count(old)
    if count:
        path.write_bytes(data.replace(old, new))
    return count

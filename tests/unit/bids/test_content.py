"""Copies of volumes in a data set, and the key of their pseudonyms."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from node.bids.content import NiftiCopy
from node.bids.pseudonyms import Pseudonyms, made_key, read_key
from node.bids.rules import NotExported
from node.errors import UsageError
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.volumes import volume


def copied(file: Path, out: Path, *, link: bool = False) -> bytes:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    written = NiftiCopy(file, digest, without_extension=True).write(out, link=link)
    assert written == hashlib.sha256(out.read_bytes()).hexdigest()
    return out.read_bytes()


@pytest.mark.parametrize("compress", [True, False])
def test_a_copy_is_compressed_and_without_the_sidecar_in_its_header(tmp_path: Path, compress: bool) -> None:
    plain, told = (WriteOptions(formats=("nifti",), compress=compress, nifti_extension=kept) for kept in (False, True))
    [small, *_] = write_volume(volume(), tmp_path, "small", plain)
    [large, *_] = write_volume(volume(), tmp_path, "large", told)
    assert large.bytes > small.bytes
    copies = [copied(file.path, tmp_path / f"{file.path.stem}.copy") for file in (small, large)]
    assert gzip.decompress(copies[0]) == gzip.decompress(copies[1])
    assert copied(large.path, tmp_path / "again") == copies[1], "the bytes depend on nothing else"
    assert (copies[0] == small.path.read_bytes()) is compress


def test_copies_may_be_links_and_are_only_of_what_the_node_wrote(tmp_path: Path) -> None:
    [file, *_] = write_volume(volume(), tmp_path, "one", WriteOptions(formats=("nifti",), thumbnails=False))
    copied(file.path, tmp_path / "link", link=True)
    assert (tmp_path / "link").stat().st_ino == file.path.stat().st_ino
    with pytest.raises(NotExported, match="fsck"):
        NiftiCopy(file.path, "0" * 64, without_extension=True).write(tmp_path / "other", link=False)


def test_a_key_is_made_once_and_refused_if_others_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "bids.key"
    assert read_key(file) is None
    key = made_key(file)
    assert made_key(file) == read_key(file) == key
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["bids.key"]
    file.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_key(file)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(UsageError, match="at least 32 bytes"):
        made_key(file)


def test_pseudonyms_depend_on_key_kind_and_identity_alone() -> None:
    one, other = Pseudonyms(b"a" * 32), Pseudonyms(b"b" * 32)
    assert one.label("patient", "x") == Pseudonyms(b"a" * 32).label("patient", "x")
    labels = {
        one.label("patient", "x"),
        one.label("study", "x"),
        one.label("patient", "y"),
        other.label("patient", "x"),
    }
    assert len(labels) == 4
    assert all(label.isalnum() and label == label.lower() for label in labels)
    days = {one.shift_days(str(number)) for number in range(50)}
    assert len(days) > 40
    assert all(day > 101 * 366 for day in days)

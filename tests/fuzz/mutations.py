"""Mutations that keep a data set readable, so that more than its beginning is reached."""

import random
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from io import BytesIO

from pydicom import DataElement, Dataset, dcmread
from pydicom.dataelem import RawDataElement

from tests.fuzz.target import files_of, joined

VALUES = (
    b"", b" ", b"0", b"1", b"-1", b"2", b"1e308", b"-1e-320", b"nan", b"inf", b"1\\2", b"1\\0\\0\\0\\1\\0", b"0\\0\\0",
    b"0\\0\\0\\0\\0\\0", b"\\\\", b"99999999999999999999", b"0x10", b"20240229", b"99991231", b"235960.999999", b"HFS",
    b"M\\MOSAIC", b"ORIGINAL\\PRIMARY", b"DERIVED\\SECONDARY\\PHASE", b"1.2.3", b"\xff\xfe", b"\0\0", b"\0\x80",
    b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\0\0\xc0\x7f\0\0\xc0\x7f", b"HFDR", b"MONOCHROME1", b"PALETTE COLOR",
    b"ISO 2022 IR 87",
)  # fmt: skip
Bytes = Callable[[bytes, int], bytes]


def mutated(data: bytes, limit: int, seed: int, mutate: Bytes) -> bytes:
    """Return an input with a few changes to the elements of a file, or now and then to its bytes."""
    chance = random.Random(seed)
    if not (files := list(files_of(data))) or chance.random() < 0.1:
        return mutate(data, limit)
    number = chance.randrange(len(files))
    files[number] = _mutated_file(files[number], limit, chance, mutate)
    return joined(files)[:limit]


def _mutated_file(data: bytes, limit: int, chance: random.Random, mutate: Bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = dcmread(BytesIO(data))
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                _change(ds, chance, mutate)
            file = BytesIO()
            ds.save_as(file)
        except Exception:  # pydicom cannot read or write it any more
            return mutate(data, limit)
    return file.getvalue()


def _change(ds: Dataset, chance: random.Random, mutate: Bytes) -> None:
    owners = list(_data_sets(ds))
    owner = chance.choice(owners)
    if not (tags := list(owner.keys())):
        return
    tag = chance.choice(tags)
    match chance.randrange(6):
        case 0:
            del owner[tag]
        case 1:
            other = chance.choice(owners)
            source = chance.choice(list(other.keys()) or tags)
            if source in other:
                owner[source] = deepcopy(other.get_item(source))  # where it does not belong; never a sequence in itself
        case 2:
            element = owner[tag]
            if element.VR == "SQ" and element.value:
                items = list(element.value)
                owner[tag] = DataElement(tag, "SQ", chance.choice((items * 2, items[1:], items[::-1])))
        case _:
            _set(owner, tag, chance, mutate)


def _set(owner: Dataset, tag: int, chance: random.Random, mutate: Bytes) -> None:
    element = owner.get_item(tag)
    if not isinstance(element, RawDataElement):
        return
    value = chance.choice(VALUES) if chance.random() < 0.6 else mutate(element.value or b"0", 4096)
    value += b" " * (len(value) % 2)
    owner[element.tag] = element._replace(value=value, length=len(value))


def _data_sets(ds: Dataset) -> Iterator[Dataset]:
    """Yield a data set and those in its sequences, without reading other values."""
    yield ds
    for tag in list(ds.keys()):
        if getattr(ds.get_item(tag), "VR", "") == "SQ":
            for item in ds[tag].value:
                yield from _data_sets(item)

"""What the tests of this folder de-identify, how, and for what reason it is refused."""

from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileDataset

from node.children.pseudonyms import PseudonymKey
from node.extensions.deidentify.deidentification import Deidentification, NotDeidentified, RefusalReason
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option, Profile
from tests import make

KEY = PseudonymKey("test", bytes(range(32)))


def how(*options: Option, **others: Any) -> Deidentification:
    return Deidentification(Profile(frozenset(options)), KEY, **others)


def ct(**attributes: Any) -> FileDataset:
    return make.changed(make.ct_series(1)[0], **attributes)


def refusal_of(ds: Dataset, order: Deidentification) -> RefusalReason:
    with pytest.raises(NotDeidentified) as raised:
        deidentified(ds, order)
    return raised.value.reason

"""The seam for plugins that remove faces from heads. None is built in: nothing here claims that a face is gone.

A plugin is an entry point in the group ``voxelnode.defacers``: a function that takes the data sets of one series,
de-identified and with native pixels, and returns one array of stored values for each, of the same shape and type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.dicom.values import text
from node.errors import ConversionRefused, UsageError, nearest
from node.extensions.deidentify.instance import code_item
from node.extensions.deidentify.profile import VISUAL_FEATURES
from node.extensions.deidentify.refusal import NotDeidentified, Reason
from node.volume.read.transcoding import decompress
from node.volume.read.transfer_syntaxes import NATIVE, NotTranscodable

GROUP = "voxelnode.defacers"

Defacer = Callable[[Sequence[Dataset]], Sequence[NDArray[np.generic]]]


def load_defacer(name: str) -> Defacer:
    """Return a plugin by the name of its entry point.

    Raises
    ------
    UsageError
        It is not installed.
    """
    installed = entry_points(group=GROUP)
    if name not in installed.names:
        known = nearest(name, sorted(installed.names)) if installed.names else "; none are installed"
        raise UsageError(f"--deface {name}: no entry point of this name in the group {GROUP!r}{known}")
    defacer: Defacer = installed[name].load()
    return defacer


def defaced(series: Sequence[Dataset], defacer: Defacer) -> list[Dataset]:
    """Return the instances of a series with the pixels that a plugin makes of them.

    Raises
    ------
    NotDeidentified
        ``defacing``: the plugin failed, or returned other arrays than those asked for.
    """
    try:
        for ds in series:
            if text(ds.file_meta, "TransferSyntaxUID") not in NATIVE:
                decompress(ds)
                ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        before = [ds.pixel_array for ds in series]
        after = [np.asarray(array) for array in defacer(series)]
    except (ConversionRefused, NotTranscodable) as error:
        raise NotDeidentified(Reason.DEFACING, f"the pixels cannot be decoded: {error}") from error
    except Exception as error:  # a plugin may raise anything
        raise NotDeidentified(Reason.DEFACING, f"the plugin failed: {type(error).__name__}") from error
    if [(array.shape, array.dtype) for array in before] != [(array.shape, array.dtype) for array in after]:
        raise NotDeidentified(Reason.DEFACING, "the plugin returned other shapes or types than those of the pixels")
    for ds, array in zip(series, after, strict=True):
        ds.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
        ds["PixelData"].VR = "OW" if array.dtype.itemsize > 1 or ds.original_encoding[0] else "OB"
        if array.ndim > 2 and "PlanarConfiguration" in ds:
            ds.PlanarConfiguration = 0
        ds.RecognizableVisualFeatures = "NO"
        ds.DeidentificationMethodCodeSequence.append(code_item(*VISUAL_FEATURES))
    return list(series)

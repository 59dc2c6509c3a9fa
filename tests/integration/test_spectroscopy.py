"""Spectra in a node: converted by a confined child process, with rows that account for every instance."""

import json
import threading
from contextlib import closing
from pathlib import Path

import nibabel as nib
import pytest
from pydicom.uid import generate_uid

from node.children.serving import ChildLimits
from node.conversion.pool import Converters
from node.extensions.spectroscopy import EXTENSION
from node.settings.section import Convert
from node.writers.options import write_options
from tests.converting import convert_series
from tests.integration.conftest import Root
from tests.signals import POINTS, enhanced_spectra, signal

LIMITS = ChildLimits(memory_bytes=8 << 30, cpu_seconds=60, deadline_seconds=60)


@pytest.mark.slow
def test_a_series_of_spectra_is_converted_with_its_verdict_and_its_sources(root: Root) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    for number in range(1, 5):
        if number != 3:
            root.take(enhanced_spectra(signal(1, 1, 1, POINTS, seed=number), InstanceNumber=number, **uids))
    claimed = root.claim()
    with closing(Converters(objects=tuple(EXTENSION.objects))) as converters:
        convert_series(
            claimed,
            root.archive,
            root.index,
            write_options(Convert(formats=("mhd",))),
            lambda job: converters.run(job, LIMITS, threading.Event()),
            root.clock,
        )
    [series] = root.rows("SELECT state, verdict, verdict_rule FROM v_series")
    assert tuple(series.values()) == ("converted", "incomplete", "instance-numbers")
    [volume] = root.rows("SELECT kind, format, dtype, shape, path, instances, echo_time_ms FROM v_volumes")
    path = Path(volume.pop("path"))
    assert tuple(volume.values()) == ("spectra", "nifti", "complex64", "[1, 1, 1, 3]", 3, 30.0)
    assert nib.Nifti2Image.from_filename(path).shape == (1, 1, 1, POINTS, 3)
    sidecar = json.loads(path.with_name("spectra.json").read_text())
    assert (sidecar["ResonantNucleus"], sidecar["completeness"]["missing"]) == (["1H"], 1)
    assert len(root.rows("SELECT DISTINCT sop_instance_uid FROM v_sources")) == 3
    assert not root.rows("SELECT * FROM v_exclusions")

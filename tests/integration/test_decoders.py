"""Decoders of compressed frames: which there are, and what becomes of those that are not installed."""

import hashlib
import importlib.resources
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from node.files.reading import read_instance
from node.volume.read.pixels import frame_reader

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(str(importlib.resources.files("pydicom"))) / "data" / "test_files"
JPEG_LS_FILES = ("MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm")


def samples_digests() -> dict[str, str]:
    """Digests of the first frames of the JPEG-LS files."""
    return {
        name: hashlib.sha256(frame_reader(read_instance(FILES / name))(0).tobytes()).hexdigest()
        for name in JPEG_LS_FILES
    }


@pytest.mark.slow
def test_jpeg_ls_is_decoded_by_gdcm_where_pyjpegls_is_not_installed() -> None:
    pytest.importorskip("jpeg_ls", reason="pyjpegls has no wheel for this Python")
    program = """
import json, sys
sys.modules["jpeg_ls"] = None
from node.volume.read.transfer_syntaxes import decoders_by_transfer_syntax
from tests.integration.test_decoders import samples_digests
print(json.dumps([decoders_by_transfer_syntax(), samples_digests()]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    decoders, digests = json.loads(done.stdout)
    syntaxes = {str(dcmread(FILES / name, stop_before_pixels=True).file_meta.TransferSyntaxUID) for name in digests}
    assert len(syntaxes) == 2
    assert {decoders[syntax][0].split()[0] for syntax in syntaxes} == {"python-gdcm"}
    assert digests == samples_digests()

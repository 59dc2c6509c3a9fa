"""Reading instances with little memory, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.make import ct_series


@pytest.mark.slow
def test_a_length_of_gigabytes_in_a_small_file_takes_no_memory(tmp_path: Path) -> None:
    [instance] = ct_series(1)
    instance.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    data = (tmp_path / "a.dcm").read_bytes()
    header = b"\xe0\x7f\x10\x00OW\x00\x00"
    (tmp_path / "a.dcm").write_bytes(data.replace(header + data[-388:-384], header + b"\xf0\xff\xff\xff"))
    program = """
import resource, sys
from pathlib import Path
from node.files.reading import read_instance
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
print(len(read_instance(Path(sys.argv[1])).PixelData))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "a.dcm")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "384"

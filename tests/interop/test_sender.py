"""A node asks the archive from which a series came: what was never sent from its end is named."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.api import Address, send_files
from tests.interop.conftest import is_answered, orthanc_beside, served, until
from tests.make import ct_series, saved
from tests.programs import free_port, needs


@contextmanager
def orthanc(folder: Path) -> Iterator[Address]:
    with orthanc_beside(folder, free_port(), port := free_port(), free_port()):
        yield Address("ORTHANC", "127.0.0.1", port)


@contextmanager
def dcmqrscp(folder: Path) -> Iterator[Address]:
    program, port = needs("dcmqrscp", "dcmtk"), free_port()
    (folder / "db").mkdir()
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMTK {folder / 'db'} RW (9, 1024mb) ANY\nAETable END\n"
    )
    with subprocess.Popen([program, "-c", str(folder / "dcmqrscp.cfg")], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: is_answered(port), 90)
            yield Address("DCMTK", "127.0.0.1", port)
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("archive", [orthanc, dcmqrscp])
def test_the_end_of_a_series_that_its_archive_did_not_send_is_named(tmp_path: Path, archive: type) -> None:
    series, whole = ct_series(8), ct_series(6)
    paths = saved([*series, *whole], tmp_path)
    with archive(tmp_path) as address:
        send_files(paths, address, "VOXELNODE")
        peer = {"ae_title": address.ae_title, "host": address.host, "port": address.port}
        with served(tmp_path, {"archive": peer}) as node:
            send_files([*paths[:5], *paths[8:]], node.address, address.ae_title)
            node.wait_until_idle()
            # Up to 68 s were seen beside other work: an archive that is late is asked again after 30 s.
            until(lambda: len(node.rows("SELECT id FROM v_events WHERE kind = 'series-confirmed'")) == 2, 240)
            verdicts = {
                row["series_instance_uid"]: (row["verdict"], row["verdict_rule"], row["missing_instances"])
                for row in node.rows("SELECT * FROM v_series")
            }
    assert verdicts[series[0].SeriesInstanceUID] == ("incomplete", "c-find", 3)
    assert verdicts[whole[0].SeriesInstanceUID] == ("complete", "c-find", 0)

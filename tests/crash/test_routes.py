"""The short form of ``python -m tests.crash.routes``."""

from pathlib import Path

import pytest

from tests.crash.routes import FAULTS, Faults


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_of_either_node_lose_and_reorder_nothing_that_routes_send(tmp_path: Path) -> None:
    faults = Faults(tmp_path, instances=24, series=4, outage=0, times=1, pause=0.4, kinds=FAULTS[:2])
    faults.run()
    assert faults.problems == []
    assert set(faults.done) == set(FAULTS[:2])

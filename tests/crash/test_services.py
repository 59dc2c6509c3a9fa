"""The short form of ``python -m tests.crash.services --cycles 100``."""

from pathlib import Path

import pytest

from tests.crash.services import Services


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_leave_no_deletion_half_done_no_wrong_mark_and_nothing_untold(tmp_path: Path) -> None:
    services = Services(tmp_path)
    services.run(2)
    assert services.problems == []
    assert services.done["found in the trash"] or services.done["found deleted"]
    assert all(services.done[what] for what in ("files harmed", "volumes told", "instances forwarded"))

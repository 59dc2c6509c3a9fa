"""Whom a route allows."""

from typing import Any

import pytest
from fastapi import Depends
from fastapi.routing import APIRoute

from node.index.rules.people.accounts import Role
from node.web.access import Allow, declared
from node.web.errors import Forbidden
from node.web.principal import Principal


def test_the_token_of_a_job_is_for_routes_of_jobs_alone() -> None:
    request: Any = None
    job, reader = (Principal(kind, "x", Role.READ) for kind in ("job", "token"))
    Allow("read")._require_role(request, reader, Role.READ)
    with pytest.raises(Forbidden, match="token of the job"):
        Allow("read")._require_role(request, job, Role.READ)


@pytest.mark.parametrize("jobs", [(True, True), (True, False), (False, True)])
def test_a_job_passes_a_route_that_lets_it_pass_in_each_declaration(jobs: tuple[bool, ...]) -> None:
    route = APIRoute("/", lambda: None, dependencies=[Depends(Allow("read", job=job)) for job in jobs])
    assert declared(route).job is all(jobs)

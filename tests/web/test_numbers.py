"""Numbers in addresses and queries that no row can have: told as such, never an error of ours."""

import re

import pytest

from tests.web.conftest import Site, every_route

MORE_THAN_A_ROW_HAS = (2**63, -(2**63) - 1, 10**40)


@pytest.mark.slow
def test_a_number_that_no_row_can_have_is_reported(filled: Site) -> None:
    client, failed, asked = filled.client(), [], 0
    for path, route in every_route(filled.app.routes):
        numbers = {
            parameter.alias
            for parameter in route.dependant.path_params + route.dependant.query_params
            if "int" in str(parameter.field_info.annotation)
        }
        for method in sorted(route.methods - {"DELETE"}) if numbers and path != "/api/v1/events" else ():
            number = MORE_THAN_A_ROW_HAS[asked % len(MORE_THAN_A_ROW_HAS)]
            in_path = numbers & set(re.findall(r"{(\w+)", path))
            values = {name: number if name in in_path else 1 for name in re.findall(r"{(\w+)", path)}
            url = path.replace(":path}", "}").format(**values)
            asked += 1
            form = {"data": {"action": "cancel"}} if method == "POST" and not path.startswith("/api") else {}
            answer = client.request(method, url, params=dict.fromkeys(numbers - in_path, number), **form)
            if answer.status_code >= 500 or (in_path and answer.status_code < 400):
                failed.append((method, url, answer.status_code))
    assert asked > 20
    assert not failed, failed


@pytest.mark.parametrize(
    "query",
    [
        "/dicom-web/studies?offset={}",
        "/dicom-web/studies?limit={}",
        "/dicom-web/series?SeriesNumber={}",
        "/dicom-web/instances?InstanceNumber={}",
        "/dicom-web/studies?NumberOfStudyRelatedInstances={}",
        "/studies?page={}",
        "/?q={}",
        "/problems?page={}",
    ],
)
def test_a_search_for_a_number_that_no_row_can_have_is_no_error_of_ours(filled: Site, query: str) -> None:
    for number in MORE_THAN_A_ROW_HAS:
        assert filled.client().get(query.format(number)).status_code < 500

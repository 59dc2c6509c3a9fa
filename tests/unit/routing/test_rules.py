"""Hours, turns, changes of attributes, and loops: what routes decide without a network."""

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from node.control.checks import problems, warnings
from node.dicom.coercion import Coercion, NotCoerced
from node.errors import UsageError
from node.routing.router import check_destination, selector_of
from node.routing.worker import DestinationTurns
from node.settings.core import Route
from node.settings.model import Settings
from tests import make


def at(time: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2026-07-01T{time}").astimezone()


@pytest.mark.parametrize(
    ("between", "time", "seconds"),
    [
        (None, "12:00", 0),
        ("08:00-17:00", "07:30", 1800),
        ("08:00-17:00", "08:00", 0),
        ("08:00-17:00", "17:00", 15 * 3600),
        ("20:00-06:00", "23:59", 0),
        ("20:00-06:00", "05:59", 0),
        ("20:00-06:00", "06:00", 14 * 3600),
    ],
)
def test_hours_may_go_over_midnight(between: str | None, time: str, seconds: float) -> None:
    assert Route(to=("A",), between=between).seconds_until_open(at(time)) == seconds


def test_the_turn_goes_to_the_highest_priority_and_then_to_who_waited_longest() -> None:
    turns, order, waiting = DestinationTurns(), [], threading.Barrier(4)

    def send(name: str, priority: str) -> None:
        waiting.wait(10)
        with turns.taken(priority, 10) as is_mine:
            assert is_mine
            order.append(name)

    threads = [threading.Thread(target=send, args=one) for one in (("a", "low"), ("b", "high"), ("c", "medium"))]
    with turns.taken("low", 0) as is_mine:
        assert is_mine
        with turns.taken("high", 0) as other:
            assert not other
        for thread in threads:
            thread.start()
        waiting.wait(10)
        while len(turns._waiting) < 3:
            threading.Event().wait(0.01)
    for thread in threads:
        thread.join(10)
    assert order == ["b", "c", "a"]


def test_attributes_are_set_replaced_and_removed_at_every_level() -> None:
    ds = make.dataset(PatientID="P1", InstitutionName="Here", AccessionNumber="A1")
    ds.RequestAttributesSequence = [make.dataset(AccessionNumber="A2", RequestedProcedureID="R1")]
    coercion = Coercion.of(
        {"PatientID": "X-{PatientID}", "PatientComments": "añadido"},
        {"InstitutionName": "", "StudyID": "never"},
        ["AccessionNumber", "(0009,1010)"],
    )
    ds.LengthToEnd = 4711  # of the original, and some programs read no more
    coercion.apply(ds)
    assert "LengthToEnd" not in ds
    assert (ds.PatientID, ds.InstitutionName, ds.PatientComments) == ("X-P1", "", "añadido")
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert "StudyID" not in ds
    assert "AccessionNumber" not in ds
    assert "AccessionNumber" not in ds.RequestAttributesSequence[0]
    assert ds.RequestAttributesSequence[0].RequestedProcedureID == "R1"
    with pytest.raises(NotCoerced, match="StudyDate"):
        Coercion.of({"StudyDate": "{PatientID}"}, {}, ()).apply(ds)


def test_placeholders_give_names_and_numbers_too() -> None:
    ds = Dataset()
    ds.PatientName, ds.SeriesNumber, ds.InstanceNumber, ds.SliceThickness, ds.Rows = "Doe^Jane", 7, None, "1.50", 64
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    Coercion.of({"PatientID": "{PatientName}", "StudyID": "{SeriesNumber}/{InstanceNumber}{Rows}"}, {}, ()).apply(ds)
    assert (ds.PatientID, ds.StudyID) == ("Doe^Jane", "7/64")
    Coercion.of({"StudyID": "{SliceThickness} {ImageType}"}, {}, ()).apply(ds)
    assert ds.StudyID == "1.50 ORIGINAL"


@pytest.mark.parametrize(
    ("set_", "remove", "words"),
    [
        ({"InstitutionNam": "x"}, (), 'mean "InstitutionName"'),
        ({"SOPInstanceUID": "1.2"}, (), "says what the instance is"),
        ({"FrameOfReferenceUID": "1.2"}, (), "only be removed"),
        ({"StudyDate": "today"}, (), "not a value of StudyDate"),
        ({"PatientID": "{Nobody}"}, (), "{Nobody}"),
        ({"PatientID": "{PixelData}"}, (), "neither text nor a number"),
        ({}, ("PixelData",), "cannot be changed"),
        ({}, ("(0002,0010)",), "cannot be changed"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_with_its_reason(
    set_: dict[str, str], remove: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError) as raised:
        Coercion.of(set_, {}, remove)
    assert words in str(raised.value)


def settings(peer: dict[str, Any], **tables: Any) -> Settings:
    peers = {"P": {"ae_title": "P", "host": "192.0.2.1"} | peer}
    return Settings.model_validate({"peers": peers, "routes": {"r": {"to": ["P"], "confirm": True}}} | tables)


def test_routes_to_the_node_itself_are_refused_and_doubtful_ones_are_reported(tmp_path: Any) -> None:
    dicom = {"dicom": {"ae_title": "US", "host": "127.0.0.1", "port": 11112}, "web": {"enabled": False}}
    assert problems(settings({}, **dicom)) == []
    assert "our own AE title" in "".join(problems(settings({"ae_title": "US"}, **dicom)))
    assert "our own listener" in "".join(problems(settings({"host": "localhost", "port": 11112}, **dicom)))
    server = {"kind": "dicomweb", "url": "http://127.0.0.1:8080/dicom-web"}
    web = {"web": {"port": 8080}, "destinations": {"D": server}}
    assert "is this node" in "".join(problems(settings({}, **web, routes={"r": {"to": ["D"]}})))
    folder = {
        "destinations": {"D": {"kind": "folder", "folder": str(tmp_path / "none")}},
        "routes": {"r": {"to": ["D"]}},
    }
    assert "is not there" in "".join(warnings(settings({}, **folder)))
    assert '"commit"' in "".join(warnings(settings({"may": ["store"]}, **dicom)))
    for wrong, words in (
        ({"to": ["Q"]}, "known: P"),
        ({"to": ["P"], "delete_confirmed": True}, "requires confirm"),
        (
            {"to": ["P"], "delete_confirmed": True, "confirm": True, "deidentify": "t"},
            "nobody would keep the originals",
        ),
        ({"to": ["P"], "deidentify": "t"}, r"no table \[deidentify.t\]; there are none"),
        ({"to": ["P"], "between": "8-17"}, "between"),
        ({"to": ["P"], "when": "instance-stored", "where": "slices > 4"}, "no volume"),
    ):
        with pytest.raises(ValueError, match=words):
            settings({}, routes={"r": wrong})


def test_a_route_for_what_others_leave_names_routes_that_leave_something() -> None:
    ct, mr = {"to": ["P"], "where": {"modality": "CT"}}, {"to": ["P"], "where": {"modality": "MR"}}

    def reported(**routes: dict[str, Any]) -> str:
        with pytest.raises(ValueError, match="otherwise") as raised:
            settings({}, routes=routes)
        return str(raised.value)

    rest = settings({}, routes={"ct": ct, "mr": mr, "rest": {"to": ["P"], "otherwise": ["ct", "mr"]}})
    selector = selector_of(rest, rest.routes["rest"])
    assert [selector.matches({"modality": one}) for one in ("CT", "MR", "PT", None)] == [False, False, True, True]
    last = {"to": ["P"], "where": {"modality": ["PT", "CT"]}, "otherwise": ["rest"]}
    chain = settings({}, routes={"ct": ct, "rest": {"to": ["P"], "otherwise": ["ct"]}, "last": last})
    selector = selector_of(chain, chain.routes["last"])
    assert [selector.matches({"modality": one}) for one in ("CT", "PT")] == [True, False]
    assert 'mean "ct"' in reported(ct=ct, rest={"to": ["P"], "otherwise": ["cy"]})
    assert "in turn" in reported(rest={"to": ["P"], "otherwise": ["rest"]})
    assert "in turn" in reported(a={"to": ["P"], "otherwise": ["b"]}, b={"to": ["P"], "otherwise": ["a"]})
    assert "takes everything" in reported(all={"to": ["P"]}, rest={"to": ["P"], "otherwise": ["all"]})
    assert "must be that of this route" in reported(
        ct=ct, rest={"to": ["P"], "when": "instance-stored", "otherwise": ["ct"]}
    )


def test_every_mistake_of_every_route_is_reported_at_once() -> None:
    peers = {"P": {"ae_title": "P", "host": "192.0.2.1"}, "D": {"ae_title": "D"}}
    routes = {
        "a": {"to": ["P", "Q"]},
        "b": {"to": ["D", "R"], "deidentify": "t"},
        "c": {"to": ["P"], "otherwise": ["d"]},
    }
    with pytest.raises(ValueError, match="routes") as raised:
        Settings.model_validate({"peers": peers, "routes": routes})
    for words in ("a: to: 'Q'", "b: to: 'D'", "b: to: 'R'", "b: deidentify", "c: otherwise"):
        assert words in str(raised.value)
    us = settings({"ae_title": "US"}, dicom={"ae_title": "US"}, routes={one: {"to": ["P"]} for one in "ab"})
    assert len([problem for problem in problems(us) if "our own AE title" in problem]) == 2


def dataset(tmp_path: Path, destination: dict[str, Any] | None = None, **route: Any) -> Settings:
    one = {"kind": "bids", "bids": str(tmp_path)} | (destination or {})
    destinations = {"D": one, "F": {"kind": "folder", "folder": str(tmp_path)}}
    routes = {"r": {"when": "study-quiet", "to": ["D"]} | route}
    return Settings.model_validate({"destinations": destinations, "routes": routes, "web": {"enabled": False}})


def test_a_route_to_a_data_set_has_volumes_rules_and_the_data_set_for_itself(tmp_path: Path) -> None:
    assert problems(dataset(tmp_path)) == warnings(dataset(tmp_path)) == []
    assert dataset(tmp_path).receivers == ["F"]  # nobody can send an instance to a data set
    for wrong, words in (
        ({"to": ["D", "F"]}, "the only destination"),
        ({"when": "instance-stored"}, "no volume at instance-stored: use when"),
        ({"remove": ["PatientName"], "confirm": True}, "remove, confirm: instances are not sent"),
    ):
        with pytest.raises(ValueError, match=words):
            dataset(tmp_path, **wrong)
    (tmp_path / "link").symlink_to(tmp_path)
    tables = {
        "destinations": {name: {"kind": "bids", "bids": str(tmp_path / at)} for name, at in (("D", ""), ("E", "link"))}
    }
    routes = {name: {"when": "study-quiet", "to": [name]} for name in "DE"}
    with pytest.raises(ValueError, match="is the data set of routes"):
        Settings.model_validate(tables | {"routes": routes})
    with pytest.raises(ValueError, match="must contain nifti"):
        Settings.model_validate(tables | {"routes": {"D": routes["D"]}, "convert": {"formats": ["mhd"]}})
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        Settings.model_validate({"destinations": {"D": {"kind": "folder", "folder": str(tmp_path), "key": "k"}}})
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rules]]\nname = "memory"\nwhere = "modalty == 1"\nsuffix = "bold"\n')
    [problem] = problems(dataset(tmp_path, {"rules": str(rules)}))
    assert problem.startswith(f'[destinations.D] {rules}: rule "memory": where:')
    assert "modality" in problem
    [problem] = problems(dataset(tmp_path, {"key": str(tmp_path / "none")}))
    assert "voxelnode pseudonyms new" in problem
    assert "is not there" in warnings(dataset(tmp_path / "none"))[0]


def test_a_bucket_needs_its_keys(tmp_path: Path) -> None:
    def bucket(**keys: Any) -> list[str]:
        destinations = {"D": {"kind": "s3", "s3": "s3://scans/node"} | keys}
        return problems(Settings.model_validate({"destinations": destinations, "web": {"enabled": False}}))

    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = AKIATEST\nhidden\n")
    assert bucket() == []
    [problem] = bucket(credentials_file=str(keys))
    assert "aws_secret_access_key below [default]" in problem
    assert "hidden" not in problem
    for wrong, words in (
        ({"s3": "s3://Scans"}, "s3://BUCKET/PREFIX"),
        ({"s3": "s3://scans/a/../b"}, "s3://BUCKET/PREFIX"),
        ({"endpoint": "https://key:secret@host"}, "must not contain keys"),
        ({"endpoint": "host:9000"}, "must begin with https"),
        ({"folder": str(tmp_path)}, "Extra inputs are not permitted"),
    ):
        with pytest.raises(ValueError, match=words):
            bucket(**wrong)


@pytest.mark.parametrize(
    ("keys", "extension", "when"),
    [
        ({"kind": "bids", "bids": "bids"}, "bids", "study-quiet"),
        ({"kind": "folder", "folder": "share"}, "destinations", "instance-stored"),
        ({"kind": "dicomweb", "url": "https://pacs.example.org/dicom-web"}, "destinations", "instance-stored"),
    ],
)
def test_a_destination_needs_the_extension_that_sends_there(
    tmp_path: Path, keys: dict[str, str], extension: str, when: str
) -> None:
    tables = {
        "storage": {"root": tmp_path / "root"},
        "destinations": {"study": keys},
        "routes": {"r": {"when": when, "to": ["study"]}},
    }
    check_destination(Settings.model_validate(tables), "study")
    without = Settings.model_validate(tables | {"extensions": {"disabled": [extension]}})
    with pytest.raises(
        UsageError,
        match=rf'\[destinations.study\] kind = "{keys["kind"]}" is of an extension that \[extensions\] disabled',
    ):
        check_destination(without, "study")

import re
import tomllib
from pathlib import Path

import pytest

from node.errors import UsageError
from node.extensions.channels.settings import WebhookSettings
from node.extensions.deidentify.settings import DeidentifySettings
from node.registry import KIND_TABLES
from node.settings.load import load, values_of
from node.settings.model import Settings
from node.settings.tables import example_toml, keys, kinds, sections
from tests.field_tables import DOCS, with_table

ROOT = Path(__file__).resolve().parents[3]


def written(text: str) -> Path:
    file = Path("voxelnode.toml")
    file.write_text(text, encoding="utf-8")
    return file


def problems(file: Path | None = None, **flags: object) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(file, flags)
    return str(caught.value).splitlines()


def test_without_file_environment_and_flags_everything_is_default() -> None:
    settings = load()
    assert settings == Settings()
    assert {origin for _, _, origin in values_of(settings)} == {"default"}


def test_the_node_listens_on_every_address_only_when_peers_are_configured_or_it_is_asked() -> None:
    written('[peers.CT1]\nae_title = "CT1"\n')
    assert load().bind_host == "0.0.0.0"
    assert load(flags={"dicom.host": "127.0.0.1"}).bind_host == "127.0.0.1"


def test_an_empty_text_is_no_folder_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    file = written('[storage]\nroot = ""\n[dicom]\nhost = ""\n[peers.CT1]\nae_title = ""\n[web]\npublic_url = ""\n')
    monkeypatch.setenv("VOXELNODE_WEB__HOST", "")
    first, *others = sorted(problems(file))
    assert first == "environment: VOXELNODE_WEB__HOST: '': is empty; leave it out for the default"
    assert [line.partition(": ")[2] for line in others] == [
        "[dicom] host: '': is empty; leave it out for the default",
        "[peers.CT1] ae_title: '': is empty",
        "[storage] root: '': is empty; leave it out for the default",
    ]


def test_flags_win_over_the_environment_which_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    written('[dicom]\nport = 1\nae_title = "FILE"\nidle_seconds = 7\n')
    monkeypatch.setenv("VOXELNODE_DICOM__PORT", "2")
    monkeypatch.setenv("VOXELNODE_DICOM__AE_TITLE", "ENVIRONMENT")
    settings = load(flags={"dicom.port": 3, "dicom.host": None})
    dicom = settings.dicom
    assert (dicom.port, dicom.ae_title, dicom.idle_seconds) == (3, "ENVIRONMENT", 7)
    origins = {key: origin for key, _, origin in values_of(settings) if origin != "default"}
    assert origins == {"dicom.port": "flag", "dicom.ae_title": "environment", "dicom.idle_seconds": "voxelnode.toml"}


def test_lists_and_names_of_senders_come_from_the_environment_as_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXELNODE_CONVERT__FORMATS", '["mhd"]')
    monkeypatch.setenv("VOXELNODE_SERIES__QUIET_SECONDS_BY_CALLING_AE_TITLE__SlowPacs", "300")
    monkeypatch.setenv("VOXELNODE_PEERS__Ct1__AE_TITLE", "CT1")
    settings = load()
    assert settings.convert.formats == ("mhd",)
    assert settings.series.quiet_seconds_by_calling_ae_title == {"SlowPacs": 300}
    assert settings.peers["Ct1"].ae_title == "CT1"


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[dicom]\nport = 5\n", encoding="utf-8")
    monkeypatch.setenv("VOXELNODE_CONFIG", str(other))
    assert load().dicom.port == 5
    assert load().loaded_from.file == other


def test_everything_that_is_wrong_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXELNODE_SERIES__QUIET_SECONDS", "-3")
    monkeypatch.setenv("VOXELNODE_SERIES__QUIET_SECOND", "3")
    monkeypatch.setenv("VOXELNODE_CONVERT__THUMBNAILS", "perhaps")
    monkeypatch.setenv("VOXELNODE_STORAG__ROOT", "x")
    monkeypatch.setenv("VOXELNODE_DICOM_PORT", "1")
    written(
        '[dicom]\nae_titel = "X"\nport = 70000\n'
        '[convert]\nformats = ["niftii"]\n'
        '[stroage]\nroot = "x"\n'
        '[peers.CT1]\nae_titl = "A"\nnetworks = ["10.0.0.300/8"]\n'
    )
    reported = problems(None, **{"dicom.maximum_associations": 0})
    for expected in (
        'voxelnode.toml: [dicom] ae_titel: unknown key, did you mean "ae_title"?',
        "voxelnode.toml: [dicom] port: 70000: must be at most 65535",
        "dicom.maximum_associations: 0: must be at least 1",
        "voxelnode.toml: [convert] formats.0: 'niftii': must be 'nifti'",
        'voxelnode.toml: [stroage]: unknown section, did you mean "storage"?',
        'voxelnode.toml: [peers.CT1] ae_titl: unknown key, did you mean "ae_title"?',
        "voxelnode.toml: [peers.CT1] ae_title: must be given",
        "voxelnode.toml: [peers.CT1] networks.0: '10.0.0.300/8': ",
        "environment: VOXELNODE_SERIES__QUIET_SECONDS: '-3': must be more than 0",
        'environment: VOXELNODE_SERIES__QUIET_SECOND: unknown key, did you mean "quiet_seconds"?',
        "environment: VOXELNODE_CONVERT__THUMBNAILS: 'perhaps': must be true or false",
        'environment: VOXELNODE_STORAG__ROOT: unknown section, did you mean "storage"?',
        "environment: VOXELNODE_DICOM_PORT: two underscores between section and key",
    ):
        assert [line for line in reported if line.startswith(expected)], f"{expected!r} not in {reported}"
    assert len(reported) == 13


def test_a_list_in_the_environment_that_is_no_json_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXELNODE_CONVERT__FORMATS", "nifti,mhd")
    (line,) = problems()
    assert line.startswith("environment: VOXELNODE_CONVERT__FORMATS: 'nifti,mhd': ")
    assert line.endswith('in the environment write JSON, such as ["a", "b"] or {"A": 1}')


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ('[storage]\nroot = ["x"]', "[storage] root: must be a path, as a text"),
        ('[storage]\nreserve_bytes = "2GB"', "[storage] reserve_bytes: '2GB': must be a whole number"),
        ("[dicom]\nhost = true", "[dicom] host: true: must be a text"),
        ('[dicom]\nae_title = "ABCDEFGHIJKLMNOPQ"', "[dicom] ae_title: 'ABCDEFGHIJKLMNOPQ': must have at most 16 char"),
        ('[convert]\nformats = "nifti"', '[convert] formats: \'nifti\': must be a list, such as ["a", "b"]'),
        ('[series]\nquiet_seconds = "5 min"', "[series] quiet_seconds: '5 min': must be a number"),
        ("port = 1", "[port]: a key without a section: write it below one, such as [dicom] or [web]"),
        (
            '[peers.A]\nae_title = "A"\nnetworks = ["10.1.2.7/24"]',
            "[peers.A] networks.0: '10.1.2.7/24': has bits beyond its prefix, did you mean \"10.1.2.0/24\"?",
        ),
        (
            '[peers.A]\nae_title = "A"\nmay = ["find"]',
            "[peers.A] may.0: 'find': must be 'echo', 'store', 'query', 'retrieve', 'commit', 'worklist' or 'mpps'",
        ),
        (
            '[peers.A]\nae_title = "A"\nhost = "10.1.2.7:104"',
            "[peers.A] host: '10.1.2.7:104': has a port: write host = \"10.1.2.7\" and port = 104",
        ),
        ('[web]\nhost = "http://a"', "[web] host: 'http://a': must be a name or an address, such as \"10.1.2.7\""),
        (
            '[routes.A]\nto = ["B"]\nbetween = "20-6"',
            "[routes.A] between: '20-6': must be two times of a day, such as \"20:00-06:00\"",
        ),
    ],
)
def test_a_wrong_value_is_reported_in_words_of_the_file(text: str, reported: str) -> None:
    (line,) = problems(written(text))
    assert line.removeprefix("voxelnode.toml: ").startswith(reported)
    assert line.count("'echo'") <= 1
    assert "environment" not in line


def test_a_mistake_of_the_environment_is_reported_as_such_beside_a_new_file(monkeypatch: pytest.MonkeyPatch) -> None:
    written(example_toml())
    monkeypatch.setenv("VOXELNODE_DICOM__PORT", "abc")
    monkeypatch.setenv("VOXELNODE_SERIES__QUIET_SECOND", "3")
    reported = problems()
    assert [line.partition(": ")[0] for line in reported] == ["environment"] * 2, reported


def test_the_host_of_a_peer_may_be_any_name_or_address() -> None:
    for host in ("a", "pacs.example.org", "10.1.2.7", "::1", "fe80::1%eth0"):
        assert load(written(f'[peers.A]\nae_title = "A"\nhost = "{host}"\n')).peers["A"].host == host


@pytest.mark.parametrize("text", ["[dicom\nport = 1", "\x00", "[dicom]\nport = 1\nport = 2\n"])
def test_a_file_that_is_no_toml_is_reported_by_name(text: str) -> None:
    (line,) = problems(written(text))
    assert line.startswith("voxelnode.toml: not valid TOML: ")


def test_a_file_that_is_not_there_is_reported_by_name() -> None:
    (line,) = problems(Path("absent.toml"))
    assert line.startswith("absent.toml: cannot be read")


@pytest.mark.parametrize("title", ["", " " * 5, "X" * 17, "A\\B", "A\nB", "Ä"])
def test_an_ae_title_has_1_to_16_characters_without_backslash_and_control_characters(title: str) -> None:
    (line,) = problems(None, **{"dicom.ae_title": title})
    assert line.startswith("dicom.ae_title: ")


def test_the_example_is_generated_from_the_model() -> None:
    example = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    assert example == example_toml(), "run: voxelnode config example > config.example.toml"


def test_the_example_has_a_line_for_each_comment_and_is_short() -> None:
    assert [line for line in example_toml().splitlines() if len(line) > 140] == []
    assert len(example_toml().encode()) <= 9000


def test_the_document_has_every_key() -> None:
    document = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert with_table("configuration.md") == document, "run: python -m tests.field_tables"


def test_the_example_changes_nothing() -> None:
    assert Settings.model_validate(tomllib.loads(example_toml())) == Settings()


def test_every_key_that_the_example_shows_is_its_default() -> None:
    shown = "\n".join(
        line.removeprefix("#")
        for line in example_toml().splitlines()
        if line.startswith(("[", "#[")) or (line.startswith("#") and " = " in line and not line.startswith("# "))
    )
    settings = Settings.model_validate(tomllib.loads(shown))
    assert (
        settings.model_copy(update={"peers": {}, "hooks": {}, "deidentify": {}, "destinations": {}, "routes": {}})
        == Settings()
    )
    assert settings.peers["CT1"].ae_title == "CT1"
    assert settings.deidentify["trial"] == DeidentifySettings(key=Path("trial.key"))
    hook = settings.hooks["pipeline"]
    assert hook == WebhookSettings(on=hook.on, url=hook.url)


def test_every_key_says_what_it_does() -> None:
    fields = [(name, one) for name, model in sections() for one in keys(model)]
    fields += [(kind, one) for name in KIND_TABLES for kind, _, own in kinds(name) for one in own]
    assert [f"{name}.{key}" for name, (key, field) in fields if not field.description] == []


@pytest.mark.parametrize("text", ["dicom = 3\n", "hooks = [1]\n", "[hooks]\none = 3\n"])
def test_a_value_in_place_of_a_table_is_one_problem(text: str) -> None:
    assert len(problems(written(text))) == 1


def test_a_table_within_a_table_is_read_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("voxelnode.toml").write_text(
        '[web]\nport = 1\n[web.oidc]\nissuer = "https://a"\nread = ["r"]\nclient_id = "x"\n'
    )
    monkeypatch.setenv("VOXELNODE_WEB__OIDC__CLIENT_ID", "voxelnode")
    oidc = load(flags={"web.oidc.issuer": "https://b"}).web.oidc
    assert (oidc.client_id, oidc.read, oidc.issuer) == ("voxelnode", ("r",), "https://b")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('issuer = "http://idp.example.org"\nclient_id = "x"\nread = ["r"]', "[web.oidc]: issuer must begin"),
        ('issuer = "https://idp.example.org"\nread = ["r"]', "[web.oidc]: issuer requires client_id"),
        ('issuer = "https://idp.example.org"\nclient_id = "x"', "[web.oidc]: read, write or admin must"),
        ('isuer = "https://idp.example.org"', '[web.oidc] isuer: unknown key, did you mean "issuer"?'),
    ],
)
def test_a_wrong_identity_provider_is_explained(lines: str, expected: str) -> None:
    assert problems(written(f"[web.oidc]\n{lines}\n"))[0].startswith(f"voxelnode.toml: {expected}")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://v:secret@a:5432,b:5432/v", "url has a password"),
        ("postgresql://v@a,b/v?p%61ssword=secret", "url has a password"),
        ("postgresql://v@/v?host=a:5432&host=b:5432", "url has host twice: several servers are postgresql://"),
    ],
)
def test_the_servers_of_an_index_have_no_password_and_are_in_one_list(url: str, problem: str) -> None:
    [reported] = problems(written(f'[index]\nurl = "{url}"\n'))
    assert problem in reported
    assert "secret" not in reported
    several = "postgresql://v@a:5432,[::1]:5433/v?target_session_attrs=read-write"
    assert load(written(f'[index]\nurl = "{several}"\n')).index.url == several


POSTGRESQL = '[index]\nurl = "postgresql://v@db/v"\n'


@pytest.mark.parametrize(
    ("tables", "acknowledge"),
    [
        ("", "local"),
        (POSTGRESQL, "local"),
        (POSTGRESQL + '[cluster]\nhost = "r1"\n', "local"),
        (POSTGRESQL + '[storage]\nurl = "file:///srv/store"\n', "index"),
        (POSTGRESQL + '[storage]\nurl = "file:///srv/store"\n[journal]\nacknowledge = "local"\n', "local"),
        ('[storage]\nurl = "file:///srv/store"\n[journal]\nacknowledge = "object"\n', "object"),
    ],
)
def test_hosts_that_share_index_and_store_acknowledge_once_it_has_the_instance(
    tmp_path: Path, tables: str, acknowledge: str
) -> None:
    (tmp_path / "c.toml").write_text(tables)
    settings = load(tmp_path / "c.toml")
    assert settings.acknowledge == acknowledge
    [(value, origin)] = [(v, origin) for key, v, origin in values_of(settings) if key == "journal.acknowledge"]
    assert (value, origin) == (acknowledge, str(tmp_path / "c.toml") if "[journal]" in tables else "default")


def test_a_promise_of_the_object_store_needs_one() -> None:
    reported = problems(written('[journal]\nacknowledge = "object"\n'))
    assert reported[0].startswith(
        'voxelnode.toml: journal: acknowledge = "object" needs an object store: set [storage]'
    )


@pytest.mark.parametrize("tables", ["", POSTGRESQL, '[storage]\nurl = "file:///srv/store"\n'])
def test_roles_need_an_index_and_a_store_that_hosts_can_share(tables: str) -> None:
    [reported] = problems(written(tables + '[cluster]\nroles = ["receive"]\n'))
    assert "roles share work of hosts with one index and one store: set [index] url and [storage] url" in reported


def test_only_extensions_that_there_are_can_be_switched_off() -> None:
    reported = problems(written('[extensions]\ndisabled = ["worklst"]\n'))
    assert "extensions: disabled: 'worklst' is not an extension, did you mean \"worklist\"?" in reported[0]


def test_a_part_of_the_node_cannot_be_switched_off_as_an_extension() -> None:
    [reported] = problems(written('[extensions]\ndisabled = ["worklist", "retrieve"]\n'))
    remedy = "'retrieve' is a part of the node: leave \"retrieve\" out of `may` of the peers in [peers]"
    assert f"extensions: disabled: {remedy}" in reported


HERE = {"ae_title": "A", "host": "127.0.0.1"}
NEEDING = {
    "results": (
        "hooks.lung: results",
        {"hooks": {"lung": {"kind": "command", "on": ["volume-written"], "command": ["a"], "results": True}}},
    ),
    "peers": ("peers.CT1: confirm_by_find", {"peers": {"CT1": {**HERE, "confirm_by_find": True}}}),
    "deidentify": (
        "routes.out: deidentify",
        {
            "peers": {"A": HERE},
            "deidentify": {"trial": {"key": "key"}},
            "routes": {"out": {"to": ["A"], "deidentify": "trial"}},
        },
    ),
    "postgresql": ("index: url", {"index": {"url": "postgresql://v@db.example/v"}, "cluster": {"host": "a"}}),
    "object_store": ("storage: url", {"storage": {"url": "s3://bucket"}, "cluster": {"host": "a"}}),
}


@pytest.mark.parametrize("extension", NEEDING)
def test_what_needs_an_extension_that_is_switched_off_is_refused(extension: str) -> None:
    key, tables = NEEDING[extension]
    Settings.model_validate(tables)
    with pytest.raises(ValueError, match=rf"{re.escape(key)} is of an extension that \[extensions\] disabled"):
        Settings.model_validate(tables | {"extensions": {"disabled": [extension]}})

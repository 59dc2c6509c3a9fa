"""The files of a configuration: drop-ins, their order, what stands in two of them, and changes that keep comments."""

import tomllib
from pathlib import Path

import pytest

from node.control.configuration import pages_file, with_table
from node.errors import UsageError
from node.settings.load import load, values_of

WHOLE = """\
# the hospital
[peers.A] # scanners
ae_title = "A"  # in room 3

[routes.r]
to = ["B"]

# the archive
[peers.B]
ae_title = "B"
host = "10.0.0.1"
"""


def written(**files: str) -> None:
    for name, text in files.items():
        path = Path(name.replace("__", "/").replace("conf_d", "conf.d") + ".toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_drop_ins_beside_the_file_and_in_the_root_add_tables_and_each_value_names_its_file() -> None:
    written(
        voxelnode='[storage]\nroot = "root"\n[dicom]\nport = 1\n[retention]\n#days = 3\n',
        conf_d__10="[retention]\ndays = 5\n",
        root__conf_d__20='[peers.A]\nae_title = "A"\n',
        root__conf_d__15='[peers.B]\nae_title = "B"\n',
    )
    Path("conf.d/notes.txt").write_text("no TOML")
    Path("conf.d/.hidden.toml").write_text("no TOML")
    settings = load()
    origins = {key: origin for key, _, origin in values_of(settings) if origin != "default"}
    root = Path("root").absolute()
    assert origins == {
        "storage.root": "voxelnode.toml",
        "dicom.port": "voxelnode.toml",
        "retention.days": "conf.d/10.toml",
        "peers.B.ae_title": f"{root}/conf.d/15.toml",
        "peers.A.ae_title": f"{root}/conf.d/20.toml",
    }
    assert list(settings.peers) == ["B", "A"]
    sources = settings.loaded_from
    assert sources.file_of("peers.A") == root / "conf.d/20.toml"
    assert not sources.is_of_pages("peers.A")


def test_drop_ins_beside_a_file_in_the_root_are_read_once() -> None:
    written(root__voxelnode='[storage]\nroot = "root"\n', root__conf_d__90='[peers.A]\nae_title = "A"\n')
    settings = load(Path("root/voxelnode.toml"))
    assert list(settings.peers) == ["A"]
    draft = b'[peers.B]\nae_title = "B"\n'
    reread = settings.loaded_from.reread
    assert reread is not None
    assert list(reread({Path("root/conf.d/90.toml").resolve(): draft}).peers) == ["B"]
    assert list(reread({Path("root/conf.d/91.toml").resolve(): draft}).peers) == ["A", "B"]


def test_a_table_in_two_files_names_both() -> None:
    written(
        voxelnode='[peers.A]\nae_title = "A"\n[web]\nport = 1\n',
        conf_d__1='[peers.A]\nport = 104\n[peers.B]\nae_title = "B"\n[web]\nhost = "::1"\n',
    )
    with pytest.raises(UsageError) as caught:
        load()
    assert str(caught.value).splitlines() == [
        "voxelnode.toml and conf.d/1.toml: [peers.A] is in both: keep it in one of them",
        "voxelnode.toml and conf.d/1.toml: [web] is in both: keep it in one of them",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[storage]\nroot = 'other'\n", "a file in the root cannot name another root"),
        ("[peers.A]\nae_titel = 'A'\n", '[peers.A] ae_titel: unknown key, did you mean "ae_title"?'),
        ("[routes.r]\nto = ['X']\n", "routes.r: to: 'X' is neither"),
        ("[peers\n", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_drop_in_names_that_file(text: str, words: str) -> None:
    written(voxelnode='[storage]\nroot = "root"\n[dicom]\nport = 1\n', root__conf_d__5=text)
    with pytest.raises(UsageError) as caught:
        load()
    [line] = {line for line in str(caught.value).splitlines() if words in line}
    assert line.startswith(f"{Path('root/conf.d/5.toml').absolute()}: ")


HOOK = '[hooks.x]\nkind = "webhook"\non = ["instance-stored"]\nurl = "https://example.org/"\nsecret = "{}"\n'


def test_a_secret_is_in_no_answer() -> None:
    written(voxelnode=HOOK.format("whsec_hidden"))
    settings = load()
    assert settings.hooks["x"].secret == "whsec_hidden"
    shown = settings.model_dump_json() + repr(settings) + str(list(values_of(settings)))
    assert "hidden" not in shown


@pytest.mark.parametrize("secret", ["hid den", "hidden" * 1000])
def test_a_wrong_secret_is_not_shown_either(secret: str) -> None:
    written(voxelnode=HOOK.format(secret))
    with pytest.raises(UsageError, match="secret") as caught:
        load()
    assert secret not in str(caught.value)


def test_changes_keep_comments_and_order() -> None:
    text = with_table(WHOLE, "peers.A", {"ae_title": "AA", "networks": ["10.0.0.0/8"]})
    assert text == WHOLE.replace(
        'ae_title = "A"  # in room 3\n', 'ae_title = "AA"  # in room 3\nnetworks = ["10.0.0.0/8"]\n'
    )
    text = with_table(WHOLE, "routes.r", {"to": ("B",), "set": {"InstitutionName": "X"}})
    assert tomllib.loads(text)["routes"] == {"r": {"to": ["B"], "set": {"InstitutionName": "X"}}}
    assert text.startswith(WHOLE[: WHOLE.index("[routes.r]")])
    text = with_table(with_table(WHOLE, "routes.r", None), "peers.B", None)
    assert tomllib.loads(text) == {"peers": {"A": {"ae_title": "A"}}}
    assert text.startswith(WHOLE[: WHOLE.index("[routes.r]")])
    text = with_table(with_table("", "peers.C", {"ae_title": 'C"'}), "retention", {"days": 3})
    assert tomllib.loads(text) == {"peers": {"C": {"ae_title": 'C"'}}, "retention": {"days": 3}}
    text = with_table("[retention]\ndays = 3  # why\nnew = 9\n", "retention", {"maximum_studies": 1}, ("days",))
    assert text == "[retention]\nnew = 9\nmaximum_studies = 1\n"


@pytest.mark.parametrize("text", ['peers = {A = {ae_title = "A"}}\n', 'peers.A.ae_title = "A"\n', WHOLE])
@pytest.mark.parametrize("keys", [{"ae_title": "Z", "networks": []}, None])
def test_an_unusual_text_is_changed_as_asked_for(text: str, keys: dict[str, object] | None) -> None:
    assert tomllib.loads(with_table(text, "peers.A", keys)).get("peers", {}).get("A") == keys


def test_the_file_of_the_pages_is_in_the_root() -> None:
    written(root__conf_d__x="")
    pages_file(Path("root")).write_text(HOOK.format("whsec_hidden"))
    assert load(flags={"storage.root": "root"}).loaded_from.is_of_pages("hooks.x")

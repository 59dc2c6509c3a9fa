"""How names are folded before they are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.dicom.key_values import folded, folded_groups


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller^Jörg", "MULLER^JORG"),
        ("Doe^John^^", "doe^john"),
        ("Doe ^ John", "Doe^John"),
        ("Van  Dyck^A", "van dyck^a"),
        ("ＤＯＥ^ＪＡＮＥ", "doe^jane"),
        ("ﾔﾏﾀﾞ", "ヤマダ"),
        ("Strauß", "STRAUSS"),
        ("Ελένη", "ΕΛΕΝΗ"),
    ],
)
def test_writings_of_one_name_are_folded_alike(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(("one", "other"), [("かき", "がき"), ("Doe^John", "Doe^^John"), ("Doe", "Do e"), ("김", "강")])
def test_different_names_stay_different(one: str, other: str) -> None:
    assert folded(one) != folded(other)


def test_component_groups_are_folded_apart() -> None:
    assert folded_groups("Yamada^Tarou=山田^太郎=やまだ^たろう") == ("yamada^tarou", "山田^太郎", "やまだ^たろう")
    assert folded_groups("=山田") == (None, "山田", None)
    assert folded_groups("A=B=C=D") == ("a", "b", "c")
    assert folded_groups("^^") == folded_groups("") == folded_groups(None) == (None, None, None)


@given(st.text(max_size=40))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@given(st.text(alphabet="aB*?^ é", max_size=20))
def test_wild_cards_stay(text: str) -> None:
    assert [c for c in folded(text) if c in "*?"] == [c for c in text if c in "*?"]

"""Accounts of an identity provider are those of an extension: without it, no node serves as if there were none."""

import pytest

from node.errors import UsageError
from node.registry import sign_ins_of
from node.settings.model import Settings


def test_sign_ins_need_their_extension() -> None:
    oidc = {
        "issuer": "https://login.example.org/realm",
        "client_id": "voxelnode",
        "role_claim": "groups",
        "read": ["staff"],
    }
    tables = {"web": {"oidc": oidc, "public_url": "https://node.example.org"}}
    assert sign_ins_of(Settings()) is None
    assert sign_ins_of(Settings.model_validate(tables)) is not None
    without = Settings.model_validate(tables | {"extensions": {"disabled": ["oidc"]}})
    with pytest.raises(UsageError, match=r"\[web.oidc\] issuer is of an extension that \[extensions\] disabled"):
        sign_ins_of(without)

"""What the configuration asks of an extension that is switched off is refused, rather than left out in silence."""

import pytest

from node.errors import UsageError
from node.registry import audit_copy_of, sign_ins_of
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


def test_a_copy_of_the_audit_log_needs_its_extension() -> None:
    without = Settings.model_validate({"audit": {"syslog": "tls://log"}, "extensions": {"disabled": ["syslog"]}})
    assert audit_copy_of(Settings()) is None
    with pytest.raises(UsageError, match=r"\[audit\] syslog is of an extension that \[extensions\] disabled"):
        audit_copy_of(without)

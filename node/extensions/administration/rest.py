"""REST: the account of the caller."""

from __future__ import annotations

from node.web.access import READERS, CurrentCall
from node.web.api.models import Resource
from node.web.api.routing import api_router

router = api_router(READERS, "account")


class AccountResource(Resource):
    """The account of the caller. `role` is that of the request, which a token may lower; `token` is its label."""

    account: str
    role: str
    token: str


@router.get("/account")
def show_account(call: CurrentCall) -> AccountResource:
    """The account of the caller, and what the request may do."""
    return AccountResource(account=call.account.name, role=call.account.role.name.lower(), token=call.account.token)

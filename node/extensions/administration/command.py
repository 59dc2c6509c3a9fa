"""``voxelnode account add|role|list|remove|token|revoke|sessions|logout|reset-factor``."""

import datetime as dt
import getpass
import sys
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Answer, Columns, Listing, listing
from node.errors import UsageError, counted

app = Commands(help="Manage the accounts that may use HTTP.", no_args_is_help=True)

ACCOUNTS: Columns = {
    "name": "name",
    "role": "role",
    "password": lambda row: "yes" if row["password"] else "no",
    "second factor": lambda row: "yes" if row["second_factor"] else "no",
    "created": "created_at",
    "tokens": lambda row: ", ".join(_token_cell(token) for token in row["tokens"]),
}
SESSIONS: Columns = {
    "number": "id",
    "address": "address",
    "browser": "agent",
    "opened": "created_at",
    "last use": "used_at",
    "until": "expires_at",
}
ROLES = "read, write (store and convert) or admin (delete)"
RoleName = Literal["read", "write", "admin"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the account.")]
Label = Annotated[
    str, typer.Option("--label", metavar="TEXT", help="Purpose of the token, such as the name of a script.")
]


@app.command()
def add(
    name: Name,
    role: Annotated[
        RoleName | None,
        typer.Option("--role", metavar="ROLE", help=f"{ROLES}. [default: the current role, or read for a new account]"),
    ] = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="For scripts that only use tokens. [default: prompt for a password]")
    ] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Create an account, or change its password.

    The password is prompted for on a terminal, and otherwise read from standard input. On a root without an index, this
    creates one, so that a node that requires accounts can start.
    """
    from node.extensions.administration.names import require_name
    from node.web.credentials import hash_password

    require_name(name)
    password_hash = None if no_password else hash_password(_password())
    done = root.order("set-account", may_create_index=True, name=name, role=role, password_hash=password_hash)
    change = "created" if done["new"] else "changed; its sessions are closed"
    return Answer({"account": name, **done}, f"account {name}, role {done['role']}: {change}")


@app.command("role")
def role_(
    name: Name, role: Annotated[RoleName, typer.Argument(metavar="ROLE", help=f"{ROLES}.")], root: ChangedRoot
) -> None:
    """Change the role of an account from its next request on."""
    root.order("set-role", name=name, role=role)
    print(f"account {name}, role {role}")


@app.command("list")
def list_(root: Root) -> Listing:
    """List accounts and their tokens."""
    with root.looking() as index:
        accounts = index.accounts.listed()
    rows: list[dict[str, Any]] = [
        {
            "name": account.name,
            "role": account.role.name.lower(),
            "password": account.has_password,
            "second_factor": account.has_factor,
            "created_at": account.created_at,
            "tokens": [
                {name: value for name, value in asdict(token).items() if name != "id"}
                | {"role": (token.role or account.role).name.lower()}
                for token in account.tokens
            ],
        }
        for account in accounts
    ]
    return listing(counted(len(rows), "account"), ACCOUNTS, rows)


@app.command()
def remove(name: Name, root: ChangedRoot) -> None:
    """Remove an account, its tokens and its sessions."""
    root.order("remove-account", name=name)
    print(f"account {name} removed")


@app.command()
def token(
    name: Name,
    label: Label,
    days: Annotated[
        int | None,
        typer.Option("--days", metavar="N", min=1, max=36525, help="Days until it expires. [default: never]"),
    ] = None,
    role: Annotated[
        RoleName | None,
        typer.Option("--role", metavar="ROLE", help="At most the role of the account. [default: that of the account]"),
    ] = None,
    routes: Annotated[
        list[str],
        typer.Option("--route", metavar="ROUTE", help="Only these: dicomweb, rest, metrics, or a path. [default: all]"),
    ] = [],  # noqa: B006
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            metavar="NAME",
            help="Show the series of this project only. [default: all that the account sees]",
        ),
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """Create a token for a script and print it.

    The token is shown only once; the index stores its digest.
    """
    from node.web.credentials import digest, new_token

    made = new_token()
    end = None if days is None else (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).isoformat()
    scope = {"role": role, "routes": routes, "project": project}
    root.order("add-token", name=name, label=label, sha256=digest(made), expires_at=end, **scope)
    return Answer({"account": name, "label": label, "token": made, "expires_at": end, **scope}, made)


@app.command()
def revoke(name: Name, label: Label, root: ChangedRoot) -> None:
    """Revoke a token at once."""
    root.order("remove-token", name=name, label=label)
    print(f"token {label!r} of {name} revoked")


@app.command()
def sessions(name: Name, root: Root) -> Listing:
    """List the browsers that are signed in by an account."""
    with root.reading() as index:
        rows = [
            {"id": one.id, **asdict(one.client)}
            | {"created_at": one.created_at, "used_at": one.used_at, "expires_at": one.expires_at}
            for one in index.accounts.sessions(name, dt.datetime.now(dt.UTC))
        ]
        if not rows and all(one.name != name for one in index.accounts.listed()):
            raise UsageError(f"there is no account {name!r}: `voxelnode account list` lists accounts")
    return listing(f"{counted(len(rows), 'session')} of {name}", SESSIONS, rows)


@app.command()
def logout(
    name: Name,
    session: Annotated[
        int | None, typer.Option("--session", metavar="N", min=1, help="This session only. [default: all]")
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """End the sessions of an account at once."""
    done = root.order("end-sessions", name=name, session=session)
    return Answer({"account": name, **done}, f"{done['ended']} sessions of {name} ended")


@app.command("reset-factor")
def reset_factor(name: Name, root: ChangedRoot) -> None:
    """Remove the second factor of an account.

    For somebody whose telephone and recovery codes are lost; the sessions of the account end.
    """
    root.order("remove-factor", name=name)
    print(f"second factor of {name} removed")


def _password() -> str:
    """Prompt twice on a terminal, else read a line of standard input. Other users could see an argument."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Password again: ") != password:
        raise UsageError("the passwords differ; nothing was changed")
    return password


def _token_cell(token: dict[str, Any]) -> str:
    end, used = token["expires_at"], token["used_at"]
    facts = [token["role"], *token["routes"]]
    facts += [f"project {token['project']}"] if token["project"] else []
    facts += [f"until {end:%Y-%m-%d}"] if end else []
    facts += [f"used {used:%Y-%m-%d}" if used else "never used"]
    return f"{token['label']} ({', '.join(facts)})"

"""The kinds of work: their states, the transitions between them, and what each kind has beside the columns of all.

Every change of a state in the table `work` is one of `TRANSITIONS`, made by `node.index.rules.work.ledger.move`. The
picture in docs/project/development.md is what ``python -m node.index.rows.states`` prints.

What a kind has of its own is one frozen class, in JSON in `work.payload`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

Kind = Literal["hook", "route", "job", "retrieval", "commitment", "question", "erasure", "download"]
"""hook, route: a message to it; job: what a hook was asked to do; retrieval: from a peer; commitment: a result that is
to be reported; question: what the sender of a series has of it; erasure: what is to go for good; download: a ZIP file
that is made for an account."""

State = Literal["waiting", "running", "ended"]

Outcome = Literal["succeeded", "incomplete", "failed", "cancelled", "expired", "dropped", "skipped"]
"""How work ended. incomplete: not all instances came; failed: given up; expired: nobody reported an outcome in time;
dropped: what it was about was deleted, or nobody wants it any more; skipped: the destination leaves it out."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

Move = Literal["begin", "postpone", "end", "again"]


class Transition(NamedTuple):
    """A move of work to another state.

    `before`: the states in which it is possible; in any other one, nothing changes.
    """

    before: tuple[State, ...]
    after: State
    why: str


OPEN: tuple[State, ...] = ("waiting", "running")

TRANSITIONS: Mapping[Move, Transition] = {
    "begin": Transition(("waiting",), "running", "somebody works on it"),
    "postpone": Transition(OPEN, "waiting", "the attempt failed, or the process ended"),
    "end": Transition(OPEN, "ended", "with an outcome"),
    "again": Transition(("ended",), "waiting", "a person or an event wants it again"),
}


def picture() -> str:
    """Return the states and their transitions as text."""
    arrows = [("", "waiting", "it is recorded")]
    arrows += [
        (before, transition.after, f"{move}: {transition.why}")
        for move, transition in TRANSITIONS.items()
        for before in transition.before
    ]
    return "\n".join(f"    {before:7} -> {after:7}   {why}" for before, after, why in arrows)


Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID of an instance that a peer claims to have sent."""


@dataclass(frozen=True, slots=True)
class Message:
    """Of a message to a hook, or to a destination of a route.

    `detail`: what the event says.
    `output`: end of the output of a command in the last attempt; it may name patients.
    `verdict_before`: see `EventRow`.
    `again`: the command that has it sent again.
    """

    detail: str | None = None
    output: str | None = None
    verdict_before: Mapping[str, Any] | None = None
    again: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """Of a job.

    `tokens`: SHA-256 of the tokens in the last attempts to deliver its message. `location`: where the receiver of a
    webhook says that it shows the job. `is_refused`: its last results were refused, as the reason of the work says.
    """

    tokens: tuple[str, ...] = ()
    location: str | None = None
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a retrieval: numbers of instances.

    `announced`: as the peer says.
    `stored`, `refused`: that came, and that the node has stored or refused.
    `failed`: that the peer says it could not send.
    """

    announced: int | None = None
    stored: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """Of a request for storage commitment (PS3.4 J.3.2).

    `peer`: address of the requestor, without the port.
    `references`: empty once the result was reported or given up.
    `failed`: instances that were reported as not committed.
    """

    peer: str = ""
    instances: int = 0
    references: tuple[Reference, ...] = ()
    failed: int | None = None


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Of a question to the sender of a series.

    `instances`: what it said the last time.
    `silent_seconds`: how long it is not asked again, because it did not answer.
    `has_failed`: it did not answer once, and is to be asked a second time.
    """

    instances: int | None = None
    silent_seconds: float = 0.0
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class Erasure:
    """Of an erasure.

    `objects`, tuple of (str, str, str): level, UID and Study Instance UID of what is to go; empty once it is gone.
    `deleted`: how many of these, from the first on, were deleted: what came again after that is new, and stays.
    `trash`: numbers of deletions in the trash that go with it.
    `certificate`: the columns of `node.lifecycle.erasure.Certificate`, of what is planned or done.
    """

    objects: tuple[tuple[Literal["study", "series", "instance"], str, str], ...] = ()
    deleted: int = 0
    trash: tuple[int, ...] = ()
    certificate: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Download:
    """Of a download.

    `maker`: what makes it; see `node.web.downloads.makes`.
    `file_name`: of the ZIP file; it may name the patient.
    `studies`: that were asked for.
    `series`, tuple of (str, str): that the account saw of these, by study, and that are to be in it.
    `instances`: how often its maker says how far it is; 0: it does not.
    `options`: what else its maker has to know.
    `groups`: of an account that sees its projects only; None: it sees the whole node.
    `projects`: row ids of these projects.
    `address`: of the client, for the audit log.
    """

    maker: str = ""
    file_name: str = ""
    studies: tuple[str, ...] = ()
    series: tuple[tuple[str, str], ...] = ()
    instances: int = 0
    options: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    projects: tuple[int, ...] = ()
    address: str = ""


Payload = Message | Assignment | Counts | CommitmentRequest | Inquiry | Erasure | Download

PAYLOADS: Mapping[Kind, type[Payload]] = {
    "hook": Message,
    "route": Message,
    "job": Assignment,
    "retrieval": Counts,
    "commitment": CommitmentRequest,
    "question": Inquiry,
    "erasure": Erasure,
    "download": Download,
}


def payload_of(kind: Kind, document: Mapping[str, Any]) -> Payload:
    """Return the payload of a row."""
    return PAYLOADS[kind](**{name: _frozen(value) for name, value in document.items()})


def document_of(payload: Payload) -> dict[str, Any]:
    """Return a payload as a row has it."""
    return {one.name: getattr(payload, one.name) for one in fields(payload)}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    print(picture())

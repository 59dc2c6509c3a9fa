"""The states of work, and the transitions between them.

Every change of a state in the table `work` is one of `TRANSITIONS`, made by `node.index.work.ledger.move`. The picture
in docs/project/development.md is what ``python -m node.index.work.states`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

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


if __name__ == "__main__":
    print(picture())

"""Services of extensions in a node that receives, and the parts of the node that they get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from node.association.operation import Operation
    from node.audit.audit_log import Audit
    from node.children.decoder import Decoder
    from node.index.rows.records import Refused
    from node.receive.ingest import Ingest
    from node.runtime.background import BackgroundService, SupervisedThread
    from node.runtime.metrics import Metrics
    from node.settings.model import Settings


class FoundAnswers(NamedTuple):
    """Whether all keys of a C-FIND are supported, and the data sets that answer it."""

    is_supported: bool
    answers: Iterator[Dataset]


Find = Callable[["Dataset", int, Callable[[], bool]], FoundAnswers]
"""Answers a C-FIND: takes the identifier, the largest number of answers, and a function that says whether to stop. It
may raise what `node.index.look.finder` raises."""

Operate = Callable[["Operation"], None]
"""Serves another request, on the thread of the association: it sends the response."""


class Listening(Protocol):
    """A listener beside DICOM and HTTP."""

    thread: SupervisedThread

    def start(self) -> None:
        """Bind, accept, and log the port."""

    def stop(self) -> None:
        """Accept nothing more, and end what is under way."""


@dataclass(frozen=True, slots=True)
class Running:
    """The services of an extension in a node that receives.

    `services`: started before the node is ready, and stopped after it accepts no associations any more.
    `listeners`: by the names under which the node logs and watches them.
    `finds`: what C-FIND answers on the presentation contexts of a `Service`.
    `operations`, mapping of (command field, SOP Class UID) to Operate: what serves other requests there.
    """

    services: Sequence[BackgroundService] = ()
    listeners: Mapping[str, Listening] = field(default_factory=dict)
    finds: Mapping[str, Find] = field(default_factory=dict)
    operations: Mapping[tuple[int, str], Operate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a node that an extension may use.

    `ingest` has the archive, the index and the clock. `on_refusal` reports a refusal to people, and must not block.
    """

    settings: Settings
    ingest: Ingest
    metrics: Metrics
    decoder: Decoder
    on_refusal: Callable[[Refused], None]
    audit: Audit | None = None


@dataclass(frozen=True, slots=True)
class OpenedRoot:
    """The parts of an opened root, which a node has, and a command where none runs."""

    settings: Settings
    ingest: Ingest
    audit: Audit

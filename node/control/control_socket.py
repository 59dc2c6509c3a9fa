"""How a command reaches the process that holds a root: a file in ``requests/`` that the node takes up and answers.

    <uuid>.request    asked, not taken up; whoever asked may withdraw it
    <uuid>.claimed    the node works on it
    <uuid>.answer     what came of it; whoever asked removes it

Each name appears by one rename. A request is performed at most once: one that a dead node had claimed is answered with
that. The folder is readable by the owner of the root only, as everything in it; nothing of the network gets here.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, time
from typing import Any

import structlog

from node.errors import UsageError, VoxelnodeError

log = structlog.get_logger()

POLL_SECONDS = 0.2
UNREAD_SECONDS = 86400.0
"""After so long nobody waits for an answer any more."""

Action = Callable[..., Mapping[str, Any]]
"""Does one thing for a command: keyword arguments and result are JSON."""


class NotPerformed(VoxelnodeError):
    """The node did not do what was asked; the message says why."""


class RequestDesk:
    """The node's side: performs requests one after the other, on a thread of its own.

    Parameters
    ----------
    root : Path
    actions : mapping of name to Action
        What may be asked for. An action tells a refusal by a `VoxelnodeError`.
    """

    def __init__(self, root: Path, actions: Mapping[str, Action]) -> None:
        self._folder, self._actions = _folder(root), actions
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)

    def start(self) -> None:
        """Answer what a dead node left, then take up requests."""
        for abandoned in self._folder.glob("*.claimed"):
            _answer(abandoned, {"error": "the node ended while it worked on this: look what is done, and ask again"})
        for unread in self._folder.glob("*.answer"):
            if unread.stat().st_mtime < time() - UNREAD_SECONDS:
                unread.unlink()
        self._thread.start()

    def stop(self) -> None:
        """Take up no more; returns when the one under way is answered."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            for request in sorted(self._folder.glob("*.request"), key=_asked_at):
                try:
                    self._serve(request)
                except OSError as error:
                    log.error("request_not_answered", reason=error.strerror)

    def _serve(self, request: Path) -> None:
        claimed = request.with_suffix(".claimed")
        try:
            os.rename(request, claimed)
        except FileNotFoundError:  # withdrawn
            return
        _answer(claimed, self._perform(claimed))

    def _perform(self, claimed: Path) -> dict[str, Any]:
        try:
            asked = json.loads(claimed.read_bytes())
            action = self._actions[asked["action"]]
            answer = {"result": dict(action(**asked["arguments"]))}
        except VoxelnodeError as error:
            return {"error": str(error), "usage": isinstance(error, UsageError)}
        except Exception as error:  # whatever it was, someone waits for an answer
            log.exception("request_failed")
            return {"error": f"{type(error).__name__} in the node: its log tells more"}
        log.info("request_performed", action=asked["action"])
        return answer


def ask(root: Path, action: str, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Have the node that holds `root` perform an action, and return its result.

    Parameters
    ----------
    seconds : float
        How long the node may take until it begins; what it has begun is waited for.

    Raises
    ------
    NotPerformed
        It refused or failed, or did not begin in time: the request is withdrawn then.
    UsageError
        It says that the arguments are wrong.
    """
    name = uuid.uuid4().hex
    request = _folder(root) / f"{name}.request"
    _appear(request, {"action": action, "arguments": arguments})
    answer, pause, deadline = request.with_suffix(".answer"), threading.Event(), monotonic() + seconds
    try:
        while not answer.exists():
            if monotonic() > deadline and _withdrawn(request):
                raise NotPerformed(
                    f"the process that holds {root} did not take this up within {seconds:g} s: is it an import, or a "
                    "node of another version? Try again when it is done"
                )
            pause.wait(POLL_SECONDS / 2)
    except KeyboardInterrupt:
        _withdrawn(request)
        raise
    told = json.loads(answer.read_bytes())
    answer.unlink()
    if "error" in told:
        raise (UsageError if told.get("usage") else NotPerformed)(told["error"])
    return dict(told["result"])


def _folder(root: Path) -> Path:
    folder = root.absolute() / "requests"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _appear(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there as a whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    os.rename(part, path)


def _answer(claimed: Path, answer: Mapping[str, Any]) -> None:
    _appear(claimed.with_suffix(".answer"), answer)
    claimed.unlink()


def _withdrawn(request: Path) -> bool:
    """Take a request back; False when the node has taken it up already."""
    try:
        request.unlink()
    except FileNotFoundError:
        return False
    return True


def _asked_at(request: Path) -> float:
    try:
        return request.stat().st_mtime
    except FileNotFoundError:  # withdrawn
        return 0.0

"""A command: a local program, run without a shell, with the message as its standard input.

Of the values that a sender controls, only UIDs are put on the command line, and only if no program can mistake them for
an option and no shell for several words. All other values are in the message; short ones are also in the environment.
"""

import errno
import os
import re
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from time import monotonic

from node.api import HOOK_VARIABLES, DeliveredMessage, HookMessage, Interrupted, NotDelivered, Settings, UsageError
from node.extensions.channels.settings import PLACEHOLDER, PLACEHOLDERS, CommandSettings

OUTPUT_BYTES = 4000
"""Bytes kept from the end of a command's output and from the end of its errors, together."""

TERMINATION_SECONDS = 3.0
"""Time from SIGTERM to SIGKILL."""

_PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
UNBUFFERED = "PYTHONUNBUFFERED"
"""Without it, what a Python program printed is lost when it is killed."""

_CHECK_SECONDS = 0.1
_HARMLESS_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class HookCommand:
    """Run a program once for each message; exit status 0 means that the message is delivered.

    `arguments`: the program and its arguments, which may contain placeholders (`PLACEHOLDERS`).
    `timeout_seconds`: time after which the process group of the program is killed. Raises UsageError if the program is
    not an executable file.
    """

    def __init__(self, arguments: Sequence[str], timeout_seconds: float) -> None:
        program = shutil.which(arguments[0])
        if program is None or not os.path.isabs(program):
            raise UsageError(
                f"command: {arguments[0]!r} is not an executable file: give an absolute path or a program on the "
                "PATH that this user may execute"
            )
        self._arguments, self._timeout_seconds = (program, *arguments[1:]), timeout_seconds

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> DeliveredMessage:
        """Run the program; return the end of its output if it succeeds. See `Channel.deliver`."""
        values = _values(message)
        arguments = [self._arguments[0], *(_filled(argument, values) for argument in self._arguments[1:])]
        stdin = os.memfd_create("message")
        try:
            os.write(stdin, message.encoded())
            os.lseek(stdin, 0, os.SEEK_SET)
            process = subprocess.Popen(
                arguments,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=_environment(values),
                start_new_session=True,
            )
        except OSError as error:
            hint = ": its first line must be as #!/usr/bin/env python" if error.errno == errno.ENOEXEC else ""
            raise NotDelivered(f"the program cannot be run: {error.strerror}{hint}") from error
        finally:
            os.close(stdin)
        return DeliveredMessage(_finished(process, self._timeout_seconds, cancelled))

    def close(self) -> None:
        """Do nothing: no program runs between messages."""


def _values(message: HookMessage) -> dict[str, str]:
    """Return the values of the placeholders for a message."""
    path = message.path
    job = message.content["job"]
    known = {
        "path": path,
        "folder": str(PurePath(path).parent) if path is not None else None,
        "out": job["folder"] if job is not None else None,
    }
    content = {**message.content, **known}
    return {name: str(content[name]) for name in PLACEHOLDERS if content[name] is not None}


def _filled(argument: str, values: Mapping[str, str]) -> str:
    def value(placeholder: re.Match[str]) -> str:
        name = placeholder[1]
        if name not in values:
            raise NotDelivered(f"{{{name}}} has no value: the files of the message are gone", is_final=True)
        if name.endswith("_uid") and _HARMLESS_UID.fullmatch(values[name]) is None:
            raise NotDelivered(
                f"the {name} contains characters that are invalid in a UID (PS3.5 9.1), so it is kept off the command "
                "line; the message on standard input has it",
                is_final=True,
            )
        return values[name]

    return PLACEHOLDER.sub(value, argument)


def _environment(values: Mapping[str, str]) -> dict[str, str]:
    variables = {HOOK_VARIABLES + name.upper(): value for name, value in values.items()}
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {UNBUFFERED: os.environ.get(UNBUFFERED, "1"), **passed_on, **variables}


def _finished(process: subprocess.Popen[bytes], timeout_seconds: float, cancelled: threading.Event) -> str | None:
    """Wait for a program; return the end of its output, and then of its errors, if it succeeds.

    Do not wait for the pipes to close: a background process of the program may keep them open.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    tails = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    is_open = set(tails)
    deadline = monotonic() + timeout_seconds
    with process.stdout, process.stderr:
        while process.poll() is None and monotonic() < deadline and not cancelled.is_set():
            if is_open:
                _read(is_open, tails, _CHECK_SECONDS)
            else:
                _waited(process, min(_CHECK_SECONDS, max(0.0, deadline - monotonic())))
        is_late = process.poll() is None
        if is_late:
            _end(process)
        while _read(is_open, tails, 0):
            pass
    written = [tail.decode("utf-8", "replace").strip() for tail in tails.values() if tail.strip()]
    output = "\n".join(text[-(OUTPUT_BYTES // len(written)) :] for text in written)[-OUTPUT_BYTES:] or None
    if is_late and cancelled.is_set():
        raise Interrupted
    if is_late:
        raise NotDelivered(f"did not finish within {timeout_seconds:g} s", output=output)
    if process.returncode < 0:
        raise NotDelivered(f"killed by {signal.Signals(-process.returncode).name}", output=output)
    if process.returncode > 0:
        raise NotDelivered(f"exit status {process.returncode}", output=output)
    return output


def _read(is_open: set[int], tails: dict[int, bytes], seconds: float) -> bool:
    """Append what arrives within `seconds` to the tails of open pipes; return whether any pipe was ready."""
    ready = select.select([*is_open], [], [], seconds)[0]
    for descriptor in ready:
        read = os.read(descriptor, 65536)
        tails[descriptor] = (tails[descriptor] + read)[-OUTPUT_BYTES:]
        if not read:
            is_open.remove(descriptor)
    return bool(ready)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        if number == signal.SIGTERM:
            _waited(process, TERMINATION_SECONDS)
    process.wait()


def _waited(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def opened(settings: Settings, name: str) -> HookCommand:
    """Return the command of a hook. See `node.notify.channel.OpenChannel`."""
    hook = settings.hooks[name]
    assert isinstance(hook, CommandSettings)
    return HookCommand(hook.command, hook.timeout_seconds)

"""pynetdicom as a requestor that loses no answer, whatever else the machine does.

A requestor of pynetdicom has a thread that looks for requests of its peer. On a loaded machine this thread sometimes
takes the answer for which `send_c_store` and the like wait, and drops it: they wait in vain for 30 s, and abort.

The programs of pynetdicom, such as ``storescu``, are run like that by ``python -m tests.awaited_answers storescu``.
"""

import runpy
from typing import Any

from pynetdicom.association import Association

_serve_request = Association._serve_request


def _serve_request_or_return_answer(self: Any, msg: Any, context_id: int) -> None:
    if self.is_requestor and getattr(msg, "MessageIDBeingRespondedTo", None) is not None:
        self.dimse.msg_queue.put((context_id, msg))
    else:
        _serve_request(self, msg, context_id)


def lose_no_answer() -> None:
    """Have the associations of this process leave answers to those who wait for them."""
    Association._serve_request = _serve_request_or_return_answer  # type: ignore[method-assign]


if __name__ == "__main__":
    lose_no_answer()
    runpy.run_module("pynetdicom", run_name="__main__", alter_sys=True)

"""deploy/voxelnode-tell tells people: a mail to a server that speaks SMTP, and a post to a webhook."""

import datetime as dt
import json
import socketserver
import subprocess
import sys
import threading
from email import message_from_string
from pathlib import Path

import pytest

from tests.messages import sample
from tests.receivers import Receiver

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).resolve().parents[2] / "deploy" / "voxelnode-tell"
REASON = "contradictory: Rows differ"


class MailServer(socketserver.TCPServer):
    """Takes one mail (RFC 5321), and keeps its text."""

    text = ""


class OneMail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            command = line.split()[0].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.text = b"".join(lines).decode()  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 well\r\n")
            if command == b"QUIT":
                return


def tell(folder: Path, *arguments: str) -> None:
    """Run the program as a hook does, with the message of a series that was refused."""
    reason, _, detail = REASON.partition(": ")
    content = dict(sample("series-failed", "NODE", dt.datetime.now(dt.UTC)).content)
    content["failures"] = [{"stack": None, "reason": reason, "detail": detail}]
    subprocess.run([sys.executable, PROGRAM, *arguments], input=json.dumps(content), text=True, timeout=60, check=True)


def test_the_program_sends_a_mail(tmp_path: Path) -> None:
    with MailServer(("127.0.0.1", 0), OneMail) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        tell(tmp_path, "mail", f"127.0.0.1:{server.server_address[1]}", "node@example.org", "ct@example.org")
        thread.join(60)
    mail = message_from_string(server.text)
    assert mail["Subject"] == "NODE: series-failed, CT, 2 instances"
    assert mail["Message-ID"].startswith("<test-")
    assert mail.get_payload().split() == [*REASON.split(), "http://node.example.org:8080/studies/1.2.3/series/1.2.3.4"]


def test_the_program_posts_to_a_chat(tmp_path: Path) -> None:
    with Receiver() as chat:
        (tmp_path / "url").write_text(f"{chat.url}\n")
        tell(tmp_path, "slack", str(tmp_path / "url"))
    [posted] = chat.received
    assert posted.content["text"].startswith("*NODE: series-failed, CT, 2 instances*\n" + REASON)

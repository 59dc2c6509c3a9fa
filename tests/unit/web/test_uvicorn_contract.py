"""What `node.web.server` uses of uvicorn without a promise of its documentation: a new version must still have it."""

import asyncio
import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from node.web.server import _Protocol, _Server


@pytest.fixture
def protocol() -> HttpToolsProtocol:
    async def made() -> HttpToolsProtocol:
        async def app(scope: object, receive: object, send: object) -> None:
            """Answer nothing."""

        config = uvicorn.Config(app, log_config=None)  # type: ignore[arg-type]
        config.load()
        return HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())

    return asyncio.run(made())


def test_a_protocol_has_what_ours_looks_at(protocol: HttpToolsProtocol) -> None:
    assert {"transport", "cycle", "loop", "scope", "pipeline", "headers", "flow"} <= set(vars(protocol))
    assert protocol.cycle is None  # until a request comes
    of_cycle = "response_complete", "response_started", "keep_alive", "chunked_encoding", "expected_content_length"
    assert all(f"self.{name}" in inspect.getsource(RequestResponseCycle.__init__) for name in of_cycle)
    assert list(inspect.signature(HttpToolsProtocol.on_response_complete).parameters) == ["self"]


def test_names_of_ours_are_none_of_the_protocol(protocol: HttpToolsProtocol) -> None:
    overridden = {"connection_made", "connection_lost", "data_received", "on_response_complete", "on_message_begin"}
    overridden |= {"on_header", "on_headers_complete", "on_body", "on_message_complete", "send_400_response"}
    ours = {name for name in vars(_Protocol) if not name.startswith("__")}
    assert ours & (set(vars(protocol)) | set(dir(HttpToolsProtocol))) == overridden


def test_a_server_has_what_ours_overrides() -> None:
    config = uvicorn.Config(lambda: None, log_config=None)  # type: ignore[arg-type,misc,return-value]
    server = Server(config)
    assert {"should_exit", "force_exit", "started"} <= set(vars(server))
    assert list(inspect.signature(Server.startup).parameters) == ["self", "sockets"]
    assert list(inspect.signature(Server.main_loop).parameters) == ["self"]
    assert list(inspect.signature(Server.on_tick).parameters) == ["self", "counter"]
    ours = {name for name in (*vars(_Server), "ready", "_loop", "_ending") if not name.startswith("__")}
    assert ours & (set(vars(server)) | set(dir(Server))) == {"startup", "main_loop"}

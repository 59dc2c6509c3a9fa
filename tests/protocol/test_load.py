"""Many peers, large instances, slow habits of senders, a clock that is set, and what idleness costs."""

import contextlib
import os
import resource
import socket
import statistics
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, SCP_SCU_RoleSelectionNegotiation

from tests.acceptance.served import Served, peak_bytes
from tests.make import instance
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    VERIFICATION,
    Raw,
    Running,
    StartNode,
    associate,
    c_store_rq,
    data_set_bytes,
    decoded,
    echo_seconds,
    p_data,
    pdv,
    status_of,
)
from tests.waiting import until


@pytest.mark.slow
def test_sixty_four_associations_at_once_all_finish(start_node: StartNode) -> None:
    node = start_node(maximum_associations_per_address=64)
    together = threading.Barrier(64, timeout=60)
    seconds: list[float] = []
    failures: list[Any] = []

    def send() -> None:
        try:
            with Raw(node, 60).associate() as peer:
                together.wait()
                began = time.monotonic()
                for _ in range(3):
                    ds = instance()
                    assert peer.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0
                seconds.append(time.monotonic() - began)
        except BaseException as error:
            failures.append(error)

    senders = [threading.Thread(target=send) for _ in range(64)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert failures == []
    assert len(node.rows()) == 192
    assert max(seconds) < 3 * statistics.median(seconds) + 1
    assert node.settled()


@pytest.mark.slow
def test_an_instance_of_any_size_takes_one_buffer_of_memory(tmp_path: Path) -> None:
    ds = instance()
    head = data_set_bytes(ds) + struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", 300 << 20)
    chunk = p_data(pdv(1, 0, bytes(1 << 17)[: (1 << 17) - 6]))
    size = (1 << 17) - 6
    with Served(tmp_path / "root", VOXELNODE_STORAGE__RESERVE_BYTES="0", VOXELNODE_WEB__ENABLED="false") as node:
        assert node.process is not None
        with Raw(node.address, 60).associate() as peer:
            peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 0, head)))
            before = peak_bytes(node.process.pid)
            left = 300 << 20
            while left > size:
                peer.send(chunk)
                left -= size
            peer.send(p_data(pdv(1, 2, bytes(left))))
            assert status_of(peer.receive()) == 0x0000
            assert peak_bytes(node.process.pid) - before < 20 << 20
        (row,) = node.rows("SELECT * FROM v_images")
        assert Path(row["path"]).stat().st_size > 300 << 20


@pytest.mark.slow
def test_a_sender_with_nagles_algorithm_does_not_wait_for_our_acknowledgements(node: Running) -> None:
    # A delayed ACK costs such a sender 40 ms for every instance, once the kernel has left its quick start. Other work
    # on the machine delays many instances, but not the quickest of them.
    series = [instance() for _ in range(80)]
    datas = [data_set_bytes(ds) for ds in series]
    seconds = []
    with Raw(node).associate() as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        for ds, data in zip(series, datas, strict=True):
            began = time.monotonic()
            peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))))
            peer.send(p_data(pdv(1, 0, data[:50])))
            peer.send(p_data(pdv(1, 2, data[50:])))
            assert status_of(peer.receive()) == 0
            seconds.append(time.monotonic() - began)
    assert sorted(seconds[20:])[6] < 0.035


def test_answers_are_cut_to_what_the_peer_can_take(node: Running) -> None:
    ds = instance()
    with Raw(node).associate(maximum_length=40) as peer:
        data = data_set_bytes(ds)
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 2, data)))
        parts = []
        while True:
            answer = peer.receive()
            assert len(answer[1]) <= 40
            parts.append(answer[1])
            if answer[1][5] & 2:
                break
    assert len(parts) > 2
    assert decoded(b"".join(parts))[0x0900] == b"\0\0"


def test_an_operations_window_and_roles_of_other_services_are_declined(node: Running) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
    roles = []
    for syntax in (CT_IMAGE_STORAGE, VERIFICATION):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = syntax, True, True
        roles.append(role)
    assoc = associate(node, ext_neg=[window, *roles])
    assert assoc.acceptor.asynchronous_operations == (1, 1)
    [(syntax, answer)] = assoc.acceptor.role_selection.items()  # C-GET needs storage classes both ways
    assert (syntax, answer.scu_role, answer.scp_role) == (CT_IMAGE_STORAGE, True, True)
    assoc.release()


@pytest.mark.slow
@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_ends_no_association(node: Running, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    # pynetdicom's timers look at the time of day.
    with Raw(node).associate() as peer:
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step)
        for _ in range(2):
            threading.Event().wait(0.6)
            assert peer.verify() == 0


@pytest.mark.slow
def test_idle_associations_cost_no_processor_time(node: Running) -> None:
    open_ones = [Raw(node).associate() for _ in range(10)]
    try:
        until(lambda: node.count("open_associations") == 10)
        before = time.process_time()
        threading.Event().wait(2)
        assert time.process_time() - before < 0.1
    finally:
        for peer in open_ones:
            peer.socket.close()
    assert node.settled()


@pytest.mark.slow
def test_without_file_descriptors_connections_wait_and_nothing_spins(start_node: StartNode) -> None:
    node = start_node()
    assert echo_seconds(node) < 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    peers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 4, hard))
        with contextlib.suppress(OSError):
            while len(peers) < 500:
                peers.append(Raw(node))
        before = time.process_time()
        threading.Event().wait(1)
        assert time.process_time() - before < 0.3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for peer in peers:
            peer.socket.close()
    assert 0 < len(peers) < 500
    assert echo_seconds(node) < 2


def test_file_descriptors_beyond_1023_are_served(node: Running) -> None:
    # `select`, on which pynetdicom waits, knows none of them.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1500:
        pytest.skip("this machine allows fewer than 1500 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1500, hard))
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        number = 0
        while number < 1100:  # the tests before may have left files open
            number = os.open("/dev/null", os.O_RDONLY)
            held.callback(os.close, number)
        with Raw(node).associate() as peer:
            assert peer.verify() == 0


def test_many_connections_may_wait_to_be_accepted(node: Running) -> None:
    # Five, on a plain acceptor of pynetdicom.
    information = node.listener._sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (backlog,) = struct.unpack_from("=L", information, 28)  # tcpi_sacked of a socket that listens
    assert backlog >= min(128, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def test_no_thread_of_an_association_outlives_the_program(node: Running) -> None:
    before = set(threading.enumerate())
    with Raw(node).associate():
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)


@pytest.mark.slow
def test_a_slow_instance_is_not_cut_off_while_its_bytes_arrive(start_node: StartNode) -> None:
    # Each PDU takes 0.1 s, and each read of the node ends within one. The instance takes longer than any deadline.
    node = start_node(pdu_seconds=0.6, idle_seconds=0.8)
    ds = instance()
    ds.add_new(0x7FE00010, "OW", bytes(2000))
    data = data_set_bytes(ds)
    step = len(data) // 20
    pdus = [p_data(pdv(1, 0, data[at : at + step])) for at in range(0, len(data), step)]
    stream = b"".join(pdus) + p_data(pdv(1, 2, b""))
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + stream[:20])
        for at in range(20, len(stream), len(pdus[0])):
            threading.Event().wait(0.1)
            peer.send(stream[at : at + len(pdus[0])])
        assert status_of(peer.receive()) == 0

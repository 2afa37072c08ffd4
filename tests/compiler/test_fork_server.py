"""The fork server: what its forks inherit, how they end, and its own end."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from esper.compiler.fork_server import SERVER_LOST, ForkServer
from tests.compiler.forked import forked, servers
from tests.waiting import wait_until

WAIT_S = 120.0


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer(["json.tool"])
    yield server
    server.close()
    assert servers(os.getpid()) == []


def answer(connection: Connection) -> None:
    connection.send(
        (os.getpid(), os.getppid(), "json.tool" in sys.modules, threading.active_count())
    )


def echo(connection: Connection) -> None:
    connection.send(connection.recv())


def echo_twice(connection: Connection) -> None:
    echo(connection)
    echo(connection)


def end(code: int) -> None:
    os._exit(code)


def started(server: ForkServer, target: object, *arguments: object) -> psutil.Popen:
    process = server.context.Process(target=target, args=arguments)
    process.start()
    return process


def test_a_fork_has_the_modules_of_its_server_and_no_thread(server: ForkServer) -> None:
    ours, theirs = server.context.Pipe()
    process = started(server, answer, theirs)
    pid, parent, imported, threads = ours.recv()
    assert pid == process.pid
    assert [parent] == [one.pid for one in servers(os.getpid())]
    assert imported
    assert threads == 1
    process.join(WAIT_S)
    assert process.exitcode == 0


def test_a_connection_reaches_the_fork(server: ForkServer) -> None:
    ours, theirs = server.context.Pipe()
    process = started(server, echo, theirs)
    ours.send("there and back")
    assert ours.poll(WAIT_S)
    assert ours.recv() == "there and back"
    process.join(WAIT_S)


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_of_a_fork_is_known(server: ForkServer, code: int) -> None:
    process = started(server, end, code)
    process.join(WAIT_S)
    assert process.exitcode == code


def test_the_signal_that_killed_a_fork_is_known(server: ForkServer) -> None:
    _, theirs = server.context.Pipe()
    process = started(server, echo, theirs)
    process.terminate()
    process.join(WAIT_S)
    assert process.exitcode == -signal.SIGKILL


def test_a_server_that_was_killed_is_started_again_and_its_forks_end_with_it(
    server: ForkServer,
) -> None:
    _, theirs = server.context.Pipe()
    earlier = started(server, echo, theirs)
    (first,) = servers(os.getpid())
    first.kill()
    first.wait(WAIT_S)
    later = started(server, end, 0)
    later.join(WAIT_S)
    assert later.exitcode == 0
    assert [first] != servers(os.getpid())
    earlier.join(WAIT_S)
    assert earlier.exitcode == SERVER_LOST
    wait_until(lambda: has_ended(earlier.pid), "the fork of the killed server has ended", WAIT_S)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_threads_fork_at_the_same_time(server: ForkServer) -> None:
    codes: list[int | None] = []

    def fork(code: int) -> None:
        process = started(server, end, code)
        process.join(WAIT_S)
        codes.append(process.exitcode)

    threads = [threading.Thread(target=fork, args=(code,)) for code in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(8))


def test_no_descriptor_is_left_by_forks_that_ended(server: ForkServer) -> None:
    started(server, end, 0).join(WAIT_S)
    (one,) = servers(os.getpid())
    before = one.num_fds()
    for _ in range(20):
        started(server, end, 0).join(WAIT_S)
    wait_until(lambda: one.num_fds() == before, "the last descriptors are closed", WAIT_S)
    assert forked(os.getpid()) == []


def test_a_fork_has_no_socket_of_its_server(server: ForkServer) -> None:
    ours, theirs = server.context.Pipe()
    process = started(server, echo_twice, theirs)
    ours.send("once")
    assert ours.recv() == "once"  # It has started by now, and closed what it inherited.
    started(server, end, 0).join(WAIT_S)  # The server has closed what it passed on.
    (child,) = forked(os.getpid())
    (parent,) = servers(os.getpid())
    assert sockets(parent.pid)
    assert sockets(child.pid).isdisjoint(sockets(parent.pid))
    process.terminate()
    process.join(WAIT_S)


def sockets(pid: int) -> set[str]:
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


def test_signals_to_the_process_group_do_not_end_the_server(server: ForkServer) -> None:
    started(server, end, 0).join(WAIT_S)
    (one,) = servers(os.getpid())
    one.send_signal(signal.SIGTERM)
    one.send_signal(signal.SIGINT)
    started(server, end, 0).join(WAIT_S)
    assert servers(os.getpid()) == [one]


def test_a_server_whose_imports_fail_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    server = ForkServer(["no_module_of_this_name"])
    with pytest.raises(ChildProcessError, match="does not start"):
        started(server, end, 0)
    assert "no_module_of_this_name" in capfd.readouterr().err
    server.close()


def test_a_socket_pair_is_all_that_connects_server_and_parent(server: ForkServer) -> None:
    """No address that another process could connect to."""
    started(server, end, 0).join(WAIT_S)
    (one,) = servers(os.getpid())
    assert all(link.laddr == "" for link in one.net_connections(kind="unix"))
    assert socket.AF_UNIX in {link.family for link in one.net_connections(kind="unix")}

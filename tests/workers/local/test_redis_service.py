"""The Redis service: a real server that keeps its address and data across restarts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from redis import Redis

from esper.workers.local import process, redis
from esper.workers.local.errors import PortError
from esper.workers.local.ports import LOOPBACK
from esper.workers.local.redis import RedisService


def test_the_server_of_this_session_answers(redis_url: str) -> None:
    assert redis.is_answering(redis_url)
    with Redis.from_url(redis_url) as client:
        assert client.ping()


def test_a_restart_keeps_address_and_data(tmp_path: Path) -> None:
    service = RedisService(tmp_path)
    service.start()
    with Redis.from_url(service.url) as client:
        client.set("kernel", b"bytes")
    service.stop()

    again = RedisService(tmp_path)
    again.start()
    try:
        assert again.url == service.url
        with Redis.from_url(again.url) as client:
            assert client.get("kernel") == b"bytes"
    finally:
        again.stop()


def test_stop_leaves_no_process(tmp_path: Path) -> None:
    service = RedisService(tmp_path)
    record = service.start()

    service.stop()

    assert not process.is_alive(record)
    assert not redis.is_answering(service.url)


def test_a_used_port_raises_with_the_remedy(tmp_path: Path) -> None:
    service = RedisService(tmp_path)
    port = int((tmp_path / "port").read_text())
    with socket.create_server((LOOPBACK, port)), pytest.raises(PortError) as caught:
        service.start()

    assert f"redis needs port {port}" in str(caught.value)
    assert f"delete {tmp_path / 'port'}" in str(caught.value)

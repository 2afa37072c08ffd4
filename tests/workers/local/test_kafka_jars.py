"""The broker's jars come from a Maven repository once, and only the pinned ones are taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from esper.workers.local import kafka_jars
from esper.workers.local.errors import DownloadError
from esper.workers.local.ports import LOOPBACK, free_port


class ForgingRepository(BaseHTTPRequestHandler):
    """Serves the same false jar for every artifact, and no checksums."""

    def do_GET(self) -> None:
        """Answer with the forgery."""
        body = b"" if self.path.endswith(".sha1") else b"not the jar you pinned"
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


def test_a_repository_that_serves_another_jar_is_refused_and_nothing_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _serving(ForgingRepository) as port:
        _use_repository(port, tmp_path, monkeypatch)
        with pytest.raises(DownloadError, match=r"has sha256 [0-9a-f]{64}, pinned is"):
            kafka_jars.kafka_class_path(tmp_path / "cache")

    assert not kafka_jars.is_cached(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.jar"))


def test_without_a_network_the_first_start_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_repository(free_port(), tmp_path, monkeypatch)

    with pytest.raises(DownloadError, match="or set KAFKA_BOOTSTRAP_SERVERS"):
        kafka_jars.kafka_class_path(tmp_path / "cache")


def test_later_starts_need_no_network(
    kafka: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_repository(free_port(), tmp_path, monkeypatch)
    if not kafka_jars.is_cached():
        pytest.fail("this session's broker was not ours: unset KAFKA_BOOTSTRAP_SERVERS")

    jars = kafka_jars.kafka_class_path().split(":")

    assert len(jars) == len(set(jars)) == 46
    assert all(Path(jar).is_file() for jar in jars)


def _use_repository(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point jgo, by its own configuration file, at a repository on this machine."""
    configuration = tmp_path / "jgo.conf"
    configuration.write_text(f"[repositories]\ncentral = http://{LOOPBACK}:{port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(configuration))


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer((LOOPBACK, 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

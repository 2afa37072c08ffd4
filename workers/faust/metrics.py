"""What a worker tells Prometheus, and the small server that tells it.

`GET /metrics` has the metrics below; `GET /healthz` answers 200 once the worker has its
partitions and tables, and 503 before and during a rebalance.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RECORDS = Counter("esper_records_total", "Records worked through.", ["topic"])
DEAD_LETTERS = Counter(
    "esper_dead_letters_total", "Records put among the dead letters.", ["topic", "reason"]
)
OPEN_RUNS = Gauge("esper_open_runs", "Runs for which kernels are planned.")
KNOWN_BLUEPRINTS = Gauge("esper_known_blueprints", "Blueprints offered to every new site.")
KERNELS_REQUESTED = Counter("esper_kernels_requested_total", "Units of compile work planned.")
KERNELS_COMPILED = Counter(
    "esper_kernels_compiled_total", "Compile attempts, by how they ended.", ["status", "reason"]
)
COMPILING = Gauge("esper_compiling", "Compile attempts under way.")
BUILD_SECONDS = Histogram(
    "esper_build_seconds", "Compile and validate one kernel.", buckets=SHORT_S
)
STEP_SECONDS = Histogram(
    "esper_build_step_seconds",
    "Steps of building one kernel, waits included.",
    ["step"],
    buckets=SHORT_S,
)
REQUEST_TO_READY_SECONDS = Histogram(
    "esper_request_to_ready_seconds", "From kernel-requested to kernel-ready.", buckets=SHORT_S
)
STORE_RETRIES = Counter("esper_store_retries_total", "Kernels put again after the store failed.")
REPORTS_FOLDED = Counter("esper_reports_folded_total", "Reports folded into the state of a run.")
REPORTS_REPEATED = Counter("esper_reports_repeated_total", "Reports ignored as folded before.")
RUNS_CLOSED = Counter("esper_runs_closed_total", "Runs whose closing report was folded.")
RUNS_BROKEN = Counter(
    "esper_runs_broken_total", "Runs in which nothing is decided any more.", ["reason"]
)
DECISIONS = Counter("esper_decisions_total", "Decisions published, by strategy.", ["strategy"])
REPORT_TO_DECISION_SECONDS = Histogram(
    "esper_report_to_decision_seconds", "From a report's record to its decision.", buckets=SHORT_S
)
RUNS_REMEMBERED = Counter(
    "esper_runs_remembered_total", "Closed runs, by whether later ones learn of them.", ["outcome"]
)

CLOCKS_OFF = Counter(
    "esper_report_clocks_off_total",
    "Decisions on reports whose record has a time that cannot be right.",
    ["direction"],
)

MAX_LATENCY_S = 24 * 60 * 60.0
"""A report older than that was stamped by a clock that is wrong, or waited for a worker."""

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds; their lines would bury the worker's own."""


def note_steps(timings_ms: Mapping[str, float]) -> None:
    """Observe the steps of one kernel; their parts, named `step.part`, are in its record only."""
    for step, taken_ms in timings_ms.items():
        if "." not in step:
            STEP_SECONDS.labels(step).observe(taken_ms / 1000)


def note_latency(reported_s: float, decided_s: float) -> None:
    """Observe how long a decision took; both times are since the epoch, by two clocks."""
    latency_s = decided_s - reported_s
    if latency_s < 0:
        CLOCKS_OFF.labels("ahead").inc()
        REPORT_TO_DECISION_SECONDS.observe(0.0)
    elif latency_s > MAX_LATENCY_S:
        CLOCKS_OFF.labels("behind").inc()
    else:
        REPORT_TO_DECISION_SECONDS.observe(latency_s)


@contextmanager
def served(host: str, port: int, is_ready: Callable[[], bool]) -> Iterator[None]:
    """Serve metrics and health on a thread while the block runs; port 0 serves nothing."""
    if port == 0:
        yield
        return
    metrics: Any = make_wsgi_app()

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return metrics(environ, start)  # type: ignore[no-any-return]
        if path != "/healthz":
            return _plain(start, "404 Not Found", b"/metrics and /healthz are served here\n")
        if is_ready():
            return _plain(start, "200 OK", b"ready\n")
        return _plain(start, "503 Service Unavailable", b"waiting for partitions or tables\n")

    with make_server(
        host, port, answer, server_class=_Server, handler_class=_QuietHandler
    ) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _plain(start: StartResponse, status: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [body]

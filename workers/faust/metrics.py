"""The Prometheus metrics of the workers, and the HTTP server for metrics and health.

`GET /metrics` returns the metrics below. `GET /healthz` returns 200 when the worker has its
partitions and restored tables, and 503 before and during a rebalance.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from esper.store import TierHealth

SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RECORDS = Counter("esper_records_total", "Records processed.", ["topic"])
DEAD_LETTERS = Counter(
    "esper_dead_letters_total", "Records sent to a dead letter topic.", ["topic", "reason"]
)
OPEN_RUNS = Gauge("esper_open_runs", "Runs for which kernels are planned.")
RUNS_EXPIRED = Counter("esper_runs_expired_total", "Runs that were not closed and report no more.")
KNOWN_BLUEPRINTS = Gauge("esper_known_blueprints", "Blueprints offered to every new site.")
BLUEPRINTS_UNANSWERED = Counter(
    "esper_blueprints_unanswered_total",
    "Blueprints without a place, of publishers that got enough answers about that.",
)
KERNELS_REQUESTED = Counter("esper_kernels_requested_total", "Kernels requested by the planner.")
KERNELS_PLANNED = Gauge(
    "esper_kernels_planned", "Kernels that wait to be requested, in the planner's queue."
)
KERNELS_COMPILED = Counter(
    "esper_kernels_compiled_total", "Compile attempts, by status.", ["status", "reason"]
)
KERNELS_REPEATED = Counter(
    "esper_kernels_repeated_total", "Requests answered again without compiling."
)
COMPILING = Gauge("esper_compiling", "Compile attempts in progress.")
BUILD_SECONDS = Histogram(
    "esper_build_seconds", "Compile and validate one kernel.", buckets=SHORT_S
)
AUDITIONS = Counter("esper_auditions_total", "Kernels tried in auditions.", ["status"])
AUDITION_SECONDS = Histogram(
    "esper_audition_seconds", "Train one kernel for one rung.", buckets=SHORT_S
)
STEP_SECONDS = Histogram(
    "esper_build_step_seconds",
    "Steps of building one kernel, queueing included.",
    ["step"],
    buckets=SHORT_S,
)
REQUEST_TO_READY_SECONDS = Histogram(
    "esper_request_to_ready_seconds", "From kernel-requested to kernel-ready.", buckets=SHORT_S
)
STORE_RETRIES = Counter(
    "esper_store_retries_total", "Retries of storing a kernel after the store failed."
)
KERNELS_STORED = Counter(
    "esper_kernels_stored_total",
    "Writes of kernels to the store: durable in every tier, or degraded because one failed.",
    ["result"],
)
STORE_TIER_UP = Gauge("esper_store_tier_up", "1 if the tier of the kernel store answers.", ["tier"])
STORE_OPERATIONS = Counter(
    "esper_store_operations_total",
    "Calls of the tiers of the kernel store, by result.",
    ["tier", "result"],
)
REPORTS_FOLDED = Counter("esper_reports_folded_total", "Reports folded into the state of a run.")
REPORTS_REPEATED = Counter(
    "esper_reports_repeated_total", "Reports ignored because they were folded before."
)
REFUSED_DECISIONS = Counter(
    "esper_refused_decisions_total",
    "Records on the decision topic that trainers refused: forged, or of another deployment.",
)
RUNS_CLOSED = Counter("esper_runs_closed_total", "Runs whose closing report was folded.")
RUNS_BROKEN = Counter(
    "esper_runs_broken_total",
    "Runs that get no more decisions because of an invalid report.",
    ["reason"],
)
DECISIONS = Counter("esper_decisions_total", "Decisions published, by strategy.", ["strategy"])
REPORT_TO_DECISION_SECONDS = Histogram(
    "esper_report_to_decision_seconds", "From a report's record to its decision.", buckets=SHORT_S
)
RUNS_REMEMBERED = Counter(
    "esper_runs_remembered_total",
    "Closed runs, by whether the memory of their task family has them.",
    ["outcome"],
)

CLOCKS_OFF = Counter(
    "esper_report_clocks_off_total",
    "Decisions whose report has an implausible record timestamp.",
    ["direction"],
)

MAX_LATENCY_S = 24 * 60 * 60.0
"""An older report has a wrong timestamp or waited for a worker; its latency is not observed."""

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every few seconds."""


def observe_steps(timings_ms: Mapping[str, float]) -> None:
    """Observe the build steps of one kernel; skip their parts, which are named `step.part`."""
    for step, taken_ms in timings_ms.items():
        if "." not in step:
            STEP_SECONDS.labels(step).observe(taken_ms / 1000)


def observe_latency(reported_s: float, decided_s: float) -> None:
    """Observe the time from a report to its decision; both are Unix times, of two clocks."""
    latency_s = decided_s - reported_s
    if latency_s < 0:
        CLOCKS_OFF.labels("ahead").inc()
        REPORT_TO_DECISION_SECONDS.observe(0.0)
    elif latency_s > MAX_LATENCY_S:
        CLOCKS_OFF.labels("behind").inc()
    else:
        REPORT_TO_DECISION_SECONDS.observe(latency_s)


class StoreMetrics:
    """Metrics of a kernel store, which counts its operations itself; call before each scrape."""

    def __init__(self, health: Callable[[], Iterable[TierHealth]]) -> None:
        self._health = health
        self._counted: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Take over the health and the counts of each tier."""
        with self._lock:
            for tier in self._health():
                STORE_TIER_UP.labels(tier.tier).set(tier.up)
                for result, count in asdict(tier.counts).items():
                    before = self._counted.get((tier.tier, result), 0)
                    STORE_OPERATIONS.labels(tier.tier, result).inc(count - before)
                    self._counted[tier.tier, result] = count


@contextmanager
def metrics_server(
    host: str,
    port: int,
    is_ready: Callable[[], bool],
    before_scrape: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Serve metrics and health on a thread while the block runs; port 0 disables the server.

    `before_scrape` is called for each request of `/metrics`.
    """
    if port == 0:
        yield
        return
    metrics: Any = make_wsgi_app()

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            before_scrape()
            return metrics(environ, start)  # type: ignore[no-any-return]
        if path != "/healthz":
            return _plain(start, "404 Not Found", b"not found: use /metrics or /healthz\n")
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

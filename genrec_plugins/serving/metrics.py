"""What ``/metrics`` tells Prometheus. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class ServeMetrics:
    """Counters of one server.

    Args:
        waiting_rows: how many rows wait to be scored.
        in_house: how many requests are in the house.

    Example::

        >>> metrics = ServeMetrics(lambda: 0, lambda: 0)
        >>> metrics.answered(200, 0.01, 3)
        >>> b'genrec_rows_total 3.0' in metrics.text()
        True
    """

    def __init__(self, waiting_rows: Callable[[], int], in_house: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        given: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("genrec_requests", "Answered POST /score requests by status", ["status"], **given)
        self._seconds = Histogram(
            "genrec_request_seconds", "Time from the first byte to the answer, of status 200", buckets=_SECONDS, **given
        )
        self._rows = Counter("genrec_rows", "Scored rows", **given)
        self._batch_rows = Histogram("genrec_batch_rows", "Rows scored together", buckets=_ROWS, **given)
        self._batch_requests = Histogram("genrec_batch_requests", "Requests scored together", buckets=_ROWS, **given)
        self._batch_seconds = Histogram("genrec_batch_seconds", "Time of scoring a batch", buckets=_SECONDS, **given)
        self._reloads = Counter("genrec_reloads", "Looks at an export: ok, same, failed", ["outcome"], **given)
        self._loaded = Gauge("genrec_model_loaded_timestamp_seconds", "When the model was loaded", ["digest"], **given)
        Gauge("genrec_waiting_rows", "Rows that wait", **given).set_function(waiting_rows)
        Gauge("genrec_requests_in_flight", "Requests in the house", **given).set_function(in_house)

    def answered(self, status: int, seconds: float, rows: int) -> None:
        """Count a request.

        Args:
            status: of its answer.
            seconds: it took.
            rows: that were scored.
        """
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)
            self._rows.inc(rows)

    def scored(self, requests: int, rows: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_requests.observe(requests)
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def reloaded(self, outcome: str) -> None:
        """Count a look at an export."""
        self._reloads.labels(outcome).inc()

    def serving(self, digest: str, loaded_at: float) -> None:
        """Say which model it is.

        Args:
            digest: of the model.
            loaded_at: seconds since 1970.
        """
        self._loaded.clear()
        self._loaded.labels(digest[:16]).set(loaded_at)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)

"""What Prometheus reads of a server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

disable_created_metrics()


class Metrics:
    """Of one process of a server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.shown: Collector = self.registry
        """What `/metrics` shows: the registry, or that of all processes."""
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter("smar_requests", "Requests answered.", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "smar_request_seconds",
            "From a request's arrival to its whole answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.closed_connections = Counter(
            "smar_closed_connections",
            "Connections ended as the client sent too much, too slowly or no HTTP, or did not read its answer.",
            ["reason"],
            registry=registry,
        )
        self.searching = Gauge(
            "smar_searches_in_progress", "Searches that run or wait for a thread.", registry=registry
        )
        self.serving = Gauge(
            "smar_serving",
            "1 for the pair that answers.",
            ["version", "model_digest", "index_digest"],
            registry=registry,
        )
        self.serving_champion = Gauge(
            "smar_serving_champion",
            "1 while what answers is the champion that the registry names, 0 while it is the last good release.",
            registry=registry,
        )
        self.reloads = Counter(
            "smar_reloads", "Pairs of model and index that became the one that answers.", registry=registry
        )
        self.failed_reloads = Counter(
            "smar_failed_reloads", "Champions that could not be opened, each attempt.", registry=registry
        )
        self.reload_seconds = Histogram(
            "smar_reload_seconds",
            "To open a pair and check its files.",
            buckets=(0.1, 0.5, 1, 5, 10, 60, 600),
            registry=registry,
        )
        self.registry_failures = Counter(
            "smar_registry_failures", "Looks at the registry that failed.", registry=registry
        )
        self.registry_seen = Gauge(
            "smar_registry_seen_timestamp_seconds", "Last time that the registry answered.", registry=registry
        )
        self.stock_items = Gauge("smar_stock_items", "Items of the stock table that filters go by.", registry=registry)
        self.stock_published = Gauge(
            "smar_stock_published_timestamp_seconds", "When the stock table was published.", registry=registry
        )
        self.stock_failures = Counter("smar_stock_failures", "Looks at the stock table that failed.", registry=registry)

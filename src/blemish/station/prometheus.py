"""What a monitoring system reads from /metrics (Prometheus)."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from blemish.station.errors import REASONS
from blemish.station.readiness import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.record.store import Recorded
    from blemish.station.station import Station


class Meters:
    """Counts what a station records; `text` is what /metrics answers."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, station: Station) -> None:
        self.station, self.registry = station, CollectorRegistry()
        self.inspections = Counter(
            "blemish_inspections",
            "Inspections recorded since the start",
            ["model", "decision"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "blemish_inspection_seconds",
            "From the arrival of an image until its row is on disk",
            ["model"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.waiting = Gauge("blemish_waiting", "Images without an answer", ["model"], registry=self.registry)
        self.evidence = Gauge(
            "blemish_drift_evidence", "log10 of the drift martingale", ["model"], registry=self.registry
        )
        self.alarm = Gauge("blemish_drift_alarm", "1 after a drift alarm", ["model"], registry=self.registry)
        self.refusals = Counter(
            "blemish_refusals", "Requests that were refused, by reason", ["reason"], registry=self.registry
        )
        for reason in REASONS:
            self.refusals.labels(reason)  # a rate is of what has been there before
        self.ready = Gauge("blemish_ready", "1: an image could be inspected now", registry=self.registry)
        self.free = Gauge(
            "blemish_free_bytes", "Free room on the disk of the station's folder", registry=self.registry
        )
        self.trouble = Gauge(
            "blemish_trouble",
            "1 while it goes wrong: record, disk, inspection",
            ["kind"],
            registry=self.registry,
        )
        station.following.listeners.append(self.count)

    def count(self, rows: Sequence[Recorded]) -> None:
        """Count rows that were recorded, by whichever process."""
        for row in rows:
            name = self.station.name_of(row.model)
            self.inspections.labels(name, row.decision).inc()
            self.seconds.labels(name).observe(row.seconds)

    def refuse(self, reason: str) -> None:
        """Count a request that was refused."""
        self.refusals.labels(reason).inc()

    def text(self) -> bytes:
        """Return everything in the exposition format."""
        self.ready.set(self.station.problem() is None)
        with suppress(OSError):
            self.free.set(shutil.disk_usage(self.station.folder).free)
        for kind in KINDS:
            self.trouble.labels(kind).set(kind in self.station.troubles.open)
        for digest, engine in self.station.engines.items():
            name = self.station.name_of(digest)
            self.waiting.labels(name).set(engine.waiting)
            drift = self.station.following.drifts.get(digest)
            if drift is not None:
                self.evidence.labels(name).set(drift.evidence)
                self.alarm.labels(name).set(drift.alarm)
        return generate_latest(self.registry)

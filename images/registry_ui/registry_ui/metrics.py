# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers for Prometheus, in its text format."""

from __future__ import annotations

import collections
import threading
import time
import typing as t

from registry_ui.indexer import Indexer
from registry_ui.store import Store

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Timings:
    """How long pages took, by their kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, list[int]] = collections.defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self.sums: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[str] = collections.Counter()

    def add(self, page: str, seconds: float, status: int) -> None:
        """Note one answer."""
        with self._lock:
            at = next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
            self.counts[page][at] += 1
            self.sums[page] += seconds  # type: ignore[assignment] # a Counter adds floats as well
            self.statuses[str(status)] += 1

    def lines(self) -> t.Iterator[str]:
        """Yield a histogram."""
        name = "registry_ui_request_seconds"
        yield f"# HELP {name} Time to make an answer, by kind of page."
        yield f"# TYPE {name} histogram"
        with self._lock:
            for page, counts in sorted(self.counts.items()):
                total = 0
                for bound, number in zip([*BUCKETS, "+Inf"], counts, strict=True):
                    total += number
                    yield f'{name}_bucket{{page="{page}",le="{bound}"}} {total}'
                yield f'{name}_sum{{page="{page}"}} {self.sums[page]:.6f}'
                yield f'{name}_count{{page="{page}"}} {total}'
            yield from counter("registry_ui_responses_total", "Answers by status.", "status", self.statuses)


def counter(name: str, text: str, label: str, values: t.Mapping[str, int]) -> t.Iterator[str]:
    """Yield a counter with one label."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for key, value in sorted(values.items()):
        yield f'{name}{{{label}="{key}"}} {value}'


def gauge(name: str, text: str, value: float) -> t.Iterator[str]:
    """Yield a number that goes up and down."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    yield f"{name} {value:g}"


def render(store: Store, indexer: Indexer, timings: Timings, machine: t.Mapping[str, float]) -> str:
    """Return everything. machine holds more gauges by name."""
    counts, progress = store.counts(), indexer.progress
    lines = [
        *gauge("registry_ui_repositories", "Repositories with a tag.", counts["repositories"]),
        *gauge("registry_ui_tags", "Tags.", counts["tags"]),
        *gauge("registry_ui_manifests", "Manifests.", counts["manifests"]),
        *gauge("registry_ui_blob_bytes", "Bytes of all distinct blobs.", counts["bytes"]),
        *gauge("registry_ui_scan_running", "Whether a scan runs.", progress.state == "running"),
        *gauge("registry_ui_scan_ratio", "How far the scan is.", progress.percent / 100),
        *gauge("registry_ui_scan_ended_seconds", "When the last scan ended well.", float(store.meta("scanned", "0"))),
        *gauge("registry_ui_waiting_notifications", "Notifications that wait for their turn.", indexer.waiting),
        *counter("registry_ui_notifications_total", "Notifications taken.", "action", indexer.events),
        *counter("registry_ui_scans_total", "Scans by how they ended.", "state", indexer.scans),
        *timings.lines(),
    ]
    for name, value in sorted(machine.items()):
        lines += gauge(f"registry_ui_machine_{name}", "What the registry's machine says of itself.", value)
    return "\n".join(lines) + "\n"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def seconds(self) -> float:
        """Return them."""
        return time.monotonic() - self.began

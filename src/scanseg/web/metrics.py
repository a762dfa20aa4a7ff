"""Counters of the server in Prometheus' text format."""

from __future__ import annotations

from collections import Counter

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the histogram of working times, in seconds."""


class Metrics:
    """What happened since the start; values only grow, except for gauges given to ``text``."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._restarts: Counter[str] = Counter()
        self._buckets = [0] * len(BUCKETS)
        self._count, self._sum = 0, 0.0

    def request(self, method: str, route: str, status: int) -> None:
        """Count an answered request. ``route`` is one of the server's own, never a client's."""
        self._requests[method, route, status] += 1

    def worked(self, seconds: float) -> None:
        """Count a photo that was segmented."""
        self._count += 1
        self._sum += seconds
        for i, bound in enumerate(BUCKETS):
            self._buckets[i] += seconds <= bound

    def restarted(self, reason: str) -> None:
        """Count an engine that had to be replaced."""
        self._restarts[reason] += 1

    def text(self, **gauges: float) -> str:
        """The page that Prometheus reads."""
        lines = [
            "# HELP scanseg_requests_total Answered requests.",
            "# TYPE scanseg_requests_total counter",
        ]
        for (method, route, status), n in sorted(self._requests.items()):
            labels = f'method="{method}",route="{route}",status="{status}"'
            lines.append(f"scanseg_requests_total{{{labels}}} {n}")
        name = "scanseg_segment_seconds"
        lines += [f"# HELP {name} Time to segment one photo.", f"# TYPE {name} histogram"]
        for bound, n in zip(BUCKETS, self._buckets, strict=True):
            lines.append(f'{name}_bucket{{le="{bound:g}"}} {n}')
        lines += [
            f'{name}_bucket{{le="+Inf"}} {self._count}',
            f"{name}_sum {self._sum:.6f}",
            f"{name}_count {self._count}",
            "# HELP scanseg_engine_restarts_total Engines replaced after a fault or a time-out.",
            "# TYPE scanseg_engine_restarts_total counter",
        ]
        for reason in ("timeout", "died"):
            n = self._restarts[reason]
            lines.append(f'scanseg_engine_restarts_total{{reason="{reason}"}} {n}')
        for gauge, value in gauges.items():
            lines += [f"# TYPE scanseg_{gauge} gauge", f"scanseg_{gauge} {value:g}"]
        return "\n".join(lines) + "\n"

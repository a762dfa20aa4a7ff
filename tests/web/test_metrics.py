from __future__ import annotations

from scanseg.web.metrics import Metrics


def test_the_text_adds_up() -> None:
    metrics = Metrics()
    metrics.request("GET", "/", 200)
    metrics.request("GET", "/", 200)
    metrics.request("POST", "/api/v1/segment", 413)
    for seconds in (0.2, 0.25, 0.75):
        metrics.worked(seconds)
    metrics.restarted("timeout")
    lines = metrics.text(requests_waiting=3).splitlines()
    assert 'scanseg_requests_total{method="GET",route="/",status="200"} 2' in lines
    assert 'scanseg_requests_total{method="POST",route="/api/v1/segment",status="413"} 1' in lines
    assert 'scanseg_segment_seconds_bucket{le="0.1"} 0' in lines
    assert 'scanseg_segment_seconds_bucket{le="0.25"} 2' in lines  # a bound is inclusive
    assert 'scanseg_segment_seconds_bucket{le="1"} 3' in lines
    assert 'scanseg_segment_seconds_bucket{le="+Inf"} 3' in lines
    assert "scanseg_segment_seconds_sum 1.200000" in lines
    assert "scanseg_segment_seconds_count 3" in lines
    assert 'scanseg_engine_restarts_total{reason="timeout"} 1' in lines
    assert 'scanseg_engine_restarts_total{reason="died"} 0' in lines
    assert "scanseg_requests_waiting 3" in lines


def test_every_sample_has_a_type() -> None:
    metrics = Metrics()
    metrics.request("GET", "/", 200)
    typed = set()
    for line in metrics.text(engine_busy=0).splitlines():
        if line.startswith("# TYPE"):
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            name = line.split("{")[0].split()[0]
            assert name in typed or name.rsplit("_", 1)[0] in typed, line

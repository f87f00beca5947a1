from __future__ import annotations

import urllib.request
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from trunkline.errors import Refusal, StartRefused
from trunkline.metrics import STATION_BUCKETS, Histogram, Metrics, Outcome


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = metrics.render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_the_page_says_what_runs_here():
    assert value(Metrics("api", "1.2.3"), "trunkline_build_info", process="api", version="1.2.3") == 1


def test_the_page_names_its_format():
    assert Metrics.content_type.startswith("text/plain")


def test_every_station_is_on_the_page_before_anything_happened():
    names = {name for name, _ in samples(Metrics("worker"))}
    assert names >= {
        "trunkline_accept_total",
        "trunkline_enqueue_seconds_bucket",
        "trunkline_claim_total",
        "trunkline_claim_wait_seconds_bucket",
        "trunkline_execute_seconds_bucket",
        "trunkline_publish_seconds_bucket",
        "trunkline_forward_total",
        "trunkline_deliver_total",
        "trunkline_active_connections",
        "trunkline_slots_wanted",
    }


def test_an_accepted_message_is_counted_with_its_result():
    metrics = Metrics("api")
    metrics.accept_accepted.inc()
    metrics.accept_accepted.inc(2)
    assert value(metrics, "trunkline_accept_total", result="accepted") == 3
    assert value(metrics, "trunkline_accept_total", result="refused") == 0


@pytest.mark.parametrize("reason", get_args(Refusal))
def test_a_refusal_is_counted_by_its_reason(reason):
    metrics = Metrics("api")
    metrics.refuse(reason)
    assert value(metrics, "trunkline_refusals_total", reason=reason) == 1
    assert value(metrics, "trunkline_accept_total", result="refused") == 1


@pytest.mark.parametrize("reason", get_args(Refusal))
def test_what_the_control_plane_refuses_is_no_message_refused(reason):
    metrics = Metrics("api")
    metrics.refuse_control(reason)
    assert value(metrics, "trunkline_control_refusals_total", reason=reason) == 1
    assert value(metrics, "trunkline_refusals_total", reason=reason) == 0
    assert value(metrics, "trunkline_accept_total", result="refused") == 0


def test_a_reason_outside_the_closed_set_is_no_label():
    with pytest.raises(KeyError):
        Metrics("api").refuse("acme's own reason")


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_an_ended_call_is_counted_by_its_outcome(outcome):
    metrics = Metrics("worker")
    metrics.executed(outcome)
    assert value(metrics, "trunkline_execute_total", outcome=outcome) == 1


def test_a_gauge_goes_up_and_down():
    metrics = Metrics("api")
    metrics.active_connections.inc()
    metrics.active_connections.inc()
    metrics.active_connections.dec()
    assert value(metrics, "trunkline_active_connections") == 1
    metrics.active_connections.set(7)
    assert value(metrics, "trunkline_active_connections") == 7


def test_an_observation_on_a_bound_belongs_to_that_bucket():
    metrics = Metrics("worker")
    metrics.publish_seconds.observe(0.001)
    assert value(metrics, "trunkline_publish_seconds_bucket", le="0.001") == 1
    assert value(metrics, "trunkline_publish_seconds_bucket", le="0.0005") == 0


def test_an_observation_beyond_all_bounds_is_counted():
    metrics = Metrics("worker")
    metrics.execute_seconds.observe(1e6)
    assert value(metrics, "trunkline_execute_seconds_bucket", le="300.0") == 0
    assert value(metrics, "trunkline_execute_seconds_bucket", le="+Inf") == 1
    assert value(metrics, "trunkline_execute_seconds_count") == 1


def test_clocks_that_disagree_do_not_make_a_sum_shrink():
    metrics = Metrics("worker")
    metrics.claim_wait_seconds.observe(-0.5)
    assert value(metrics, "trunkline_claim_wait_seconds_sum") == 0
    assert value(metrics, "trunkline_claim_wait_seconds_count") == 1


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_every_observation_is_in_exactly_one_bucket(observations):
    histogram = Histogram(STATION_BUCKETS)
    for observation in observations:
        histogram.observe(observation)
    assert sum(histogram.counts) == len(observations)
    for index, bound in enumerate(STATION_BUCKETS):
        assert sum(histogram.counts[: index + 1]) == sum(o <= bound for o in observations)


def test_two_processes_in_one_interpreter_count_apart():
    api, worker = Metrics("api"), Metrics("worker")
    api.deliver_total.inc()
    assert value(worker, "trunkline_deliver_total") == 0


def test_a_process_without_http_server_serves_its_page_on_a_port(free_port):
    metrics = Metrics("worker")
    metrics.serve(free_port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=5) as answer:
            assert b"trunkline_claim_total" in answer.read()
        with pytest.raises(StartRefused, match="TRUNKLINE_METRICS_PORT"):
            Metrics("worker").serve(free_port)
    finally:
        metrics.close()

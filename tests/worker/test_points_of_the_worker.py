"""What a worker tells about itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from roundtable.messages import Account
from roundtable.telemetry import Telemetry
from worker.points import Points

from tests.roundtable.sink import Sink
from tests.worker.scripted import order


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    yield server
    server.stop()


def test_each_trained_client_is_a_point(sink: Sink) -> None:
    points = Points(Telemetry(sink.url), "0123456789ab", "pi 3", 2**31, wall=lambda: 5.0)
    points.start()
    points.joined("w2")
    account = Account(num_examples=840, num_steps=27, loss=0.5, training_seconds=1.5, bytes_out=800)
    points.trained(order(3, round=4), account)
    points.close(5.0)
    (found,) = sink.wait_for("^fl_client")
    head, fields, when = found.replace(r"pi\ 3", "pi-3").split(" ")
    assert head == "fl_client,client=3,node=pi-3,run=r1,source=0123456789ab,worker=w2"
    assert when == "5000000000"
    for field in ("round=4i", "seconds_training=1.5", "num_examples=840i", "loss=0.5", "bytes_out=800i"):
        assert field in fields.split(",")


def test_the_process_is_a_point_every_so_often(sink: Sink) -> None:
    points = Points(Telemetry(sink.url), "0123456789ab", "pi-3", 2**31, every=0.05)
    points.start()
    points.joined("w2")
    points.traffic.count(bytes_in=10, bytes_out=20)
    points.traffic.take()
    for client, round_number in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
        points.trained(order(client, round=round_number), Account(num_examples=1, num_steps=1))
    (found, *_) = sink.wait_for(r"^fl_worker.*clients=2i", 2)
    points.close()
    head, _, rest = found.partition(" ")
    assert head == "fl_worker,node=pi-3,run=r1,source=0123456789ab,worker=w2"
    for field in (
        'worker_id="w2@0123456789ab"',
        "limit=2147483648i",
        "rx_bytes=10i",
        "tx_bytes=20i",
        "dropped=0i",
    ):
        assert field in rest.split(" ")[0].split(",")
    assert "usage_percent=" in rest and "usage=" in rest


def test_without_an_address_none_is_made_and_nothing_runs() -> None:
    points = Points()
    points.start()
    points.trained(order(1), Account(num_examples=1, num_steps=1))
    points.close()


@pytest.mark.parametrize(("ahead", "shown"), [(0.5, 5000), (59.0, 5000), (-7200.0, 12200), (7200.0, -2200)])
def test_points_are_told_in_the_aggregators_time_where_this_machines_clock_is_far_off(
    sink: Sink, ahead: float, shown: int
) -> None:
    points = Points(Telemetry(sink.url), "s", "pi-3", 1, wall=lambda: 5000.0)
    points.start()
    points.joined("w2", 5000.0 - ahead)
    points.trained(order(3), Account(num_examples=1, num_steps=1))
    points.close(5.0)
    (found,) = sink.wait_for("^fl_client")
    assert found.rsplit(" ", 1)[1] == str(shown * 10**9)

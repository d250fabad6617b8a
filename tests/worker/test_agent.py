"""The agent against a scripted aggregator on a real socket: orders, network faults, sessions, leaving."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from roundtable.codec import Buffer, Encoded, as_decoded, content_hash, encode
from roundtable.errors import IncompatibleVersion, InvalidSetting, InvalidTask, SourceMismatch, problem_of
from roundtable.experiment import Experiment
from roundtable.messages import UpdateReply
from roundtable.strategy import Strategy
from roundtable.strategy.control_variates import ControlVariates
from worker.link import Link
from worker.work import NeedsFreshProcess

from tests.worker.conftest import Lab
from tests.worker.scripted import MANIFEST, WAIT, Aggregator, Answer, NumpyTrainer, order, problem, weights

Start = Callable[..., Lab]


class Once:
    """Answers the first request to a path in its own way."""

    def __init__(self, path: str, answer: Answer | Exception, times: int = 1) -> None:
        self.path, self.answer, self.left = path, answer, times

    def __call__(self, _method: str, path: str) -> Answer | None:
        if self.path not in path or self.left == 0:
            return None
        self.left -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


# --- orders


def test_a_train_order_becomes_an_update_with_its_account(start: Start, aggregator: Aggregator) -> None:
    start()
    aggregator.give(order(3, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o3")
    assert np.array_equal(aggregator.update("o3").arrays[0], weights(3.0).arrays[0])
    account = aggregator.account("o3")
    assert (account.num_examples, account.num_steps, account.loss, account.metrics) == (
        10,
        2,
        0.25,
        {"accuracy": 0.5},
    )
    assert account.training_seconds == 0.125 and account.cpu_seconds == 0.0625
    assert account.bytes_in >= len(aggregator.contents[aggregator.publish(1.0)])
    assert account.peak_memory_bytes > 10_000_000


def test_the_second_account_tells_the_bytes_and_seconds_of_sending_the_first(
    start: Start, aggregator: Aggregator
) -> None:
    start()
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for_replies("o1")
    aggregator.wait_for(lambda: aggregator.holding == (), "the first update to be done with")
    aggregator.give(order(2, weights=digest))
    aggregator.wait_for_replies("o2")
    account = aggregator.account("o2")
    assert account.bytes_out >= len(aggregator.updates["o1"])
    assert account.sending_seconds > 0


def test_weights_are_fetched_once_a_round_however_many_clients_there_are(
    start: Start, aggregator: Aggregator
) -> None:
    start()
    for number, value in ((1, 1.0), (2, 2.0)):
        digest = aggregator.publish(value)
        aggregator.give(*(order(10 * number + i, weights=digest, round=number) for i in range(4)))
        aggregator.wait_for_replies(*(f"o{10 * number + i}" for i in range(4)))
    assert sum("GET /v1/weights/" in request for request in aggregator.requests) == 2
    assert sum("/plan" in request for request in aggregator.requests) == 1


def test_train_orders_go_before_evaluations_each_in_order_of_arrival(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start(open=False)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "the first training")
    evaluations = [order(20 + shard, "evaluate", weights=digest, shard=shard) for shard in (4, 2)]
    aggregator.give(*evaluations, order(7, weights=digest))
    aggregator.wait_for(lambda: "o7" in aggregator.holding, "the orders to be held")
    lab.trainer.gate.set()
    aggregator.wait_for_replies("o24", "o22", "o7")
    assert lab.trainer.begun == ["train 1", "train 7", "evaluate 4", "evaluate 2"]


def test_an_evaluation_reports_its_sums(start: Start, aggregator: Aggregator) -> None:
    start()
    aggregator.give(order(1, "evaluate", weights=aggregator.publish(1.0), shard=0))
    aggregator.wait_for_replies("o1")
    result = aggregator.results["o1"]
    assert result.status == "done" and result.evaluated is not None
    assert result.evaluated.sums == {"accuracy": 4.0}


def test_the_first_weights_come_from_an_initialize_order_and_the_plan_is_read_again_after_it(
    start: Start, aggregator: Aggregator
) -> None:
    aggregator.initialized = False
    lab = start()
    aggregator.give(order(1, "initialize", round=0))
    aggregator.wait_for_replies("o1")
    assert np.array_equal(aggregator.initial("o1").arrays[0], weights(0.5).arrays[0])
    aggregator.initialized = True
    aggregator.give(order(2, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o2")
    assert lab.trainer.used == [MANIFEST]


def test_a_stop_order_frees_the_trainer_and_the_next_run_makes_another(
    start: Start, aggregator: Aggregator
) -> None:
    made: list[NumpyTrainer] = []

    def make(plan: object) -> NumpyTrainer:
        made.append(NumpyTrainer(plan))  # type: ignore[arg-type]
        made[-1].gate.set()
        return made[-1]

    start(make=make)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for_replies("o1")
    aggregator.give(order(2, "stop", head="c" * 64))
    aggregator.wait_for_replies("o2")
    assert aggregator.results["o2"].status == "done"
    aggregator.give(order(3, weights=digest))
    aggregator.wait_for_replies("o3")
    assert len(made) == 2


def test_with_float16_on_the_wire_training_starts_from_the_weights_as_decoded(
    start: Start, aggregator: Aggregator
) -> None:
    aggregator.experiment = Experiment(name="e", task="digits", wire="float16")
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(0.1)))
    aggregator.wait_for_replies("o1")
    assert lab.trainer.seen == [float(np.float32(np.float16(0.1)))]
    assert len(aggregator.updates["o1"]) < MANIFEST.nbytes + 2000
    assert aggregator.update("o1").arrays[0].dtype == np.float32


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_a_client_s_state_travels_with_its_update_and_is_fetched_only_where_it_is_not_known(
    start: Start, aggregator: Aggregator, wire: Literal["float32", "float16"]
) -> None:
    strategy = Strategy(objective=ControlVariates())
    aggregator.experiment = Experiment(name="e", task="digits", wire=wire, strategy=strategy)
    lab = start()
    controls = weights(0.1, MANIFEST.trainable)
    lab.trainer.state, lab.trainer.change = controls, weights(0.5, MANIFEST.trainable)
    digest = aggregator.publish(1.0, broadcast=0.25)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for_replies("o1")
    groups = aggregator.decoded("o1").groups
    assert float(groups["broadcast"].arrays[0].flat[0]) == 0.5
    kept = content_hash({"state": groups["state"]})  # as the aggregator names what it has kept

    aggregator.give(order(2, round=2, client=1, weights=digest, state=kept))
    aggregator.wait_for_replies("o2")
    assert not any("/v1/states/" in request for request in aggregator.requests)

    foreign = encode({"state": weights(0.75, MANIFEST.trainable)})
    aggregator.contents[foreign.digest] = b"".join(bytes(piece) for piece in foreign.buffers)
    aggregator.give(order(3, round=2, client=3, weights=digest, state=foreign.digest))
    aggregator.wait_for_replies("o3")
    assert sum("/v1/states/" in request for request in aggregator.requests) == 1
    decoded = float(as_decoded(controls, wire).arrays[0].flat[0])
    assert lab.trainer.given == [(0.25, None), (0.25, decoded), (0.25, 0.75)]


def test_at_most_two_updates_are_in_memory_while_none_can_be_sent(
    start: Start, aggregator: Aggregator
) -> None:
    aggregator.meddle = lambda method, _path: problem(507, "storage-full") if method == "PUT" else None
    lab = start()
    digest = aggregator.publish(1.0)
    aggregator.give(
        *(order(i, weights=digest) for i in (1, 2, 3)), order(9, "evaluate", weights=digest, shard=9)
    )
    aggregator.wait_for(lambda: "evaluate 9" in lab.trainer.begun, "the evaluation, which needs no such room")
    assert lab.trainer.begun == ["train 1", "train 2", "evaluate 9"]
    aggregator.meddle = lambda _method, _path: None
    aggregator.wait_for_replies("o1", "o2", "o3")


def test_an_update_that_cannot_be_sent_at_once_keeps_nobody_from_the_next_orders(
    start: Start, aggregator: Aggregator
) -> None:
    aggregator.meddle = lambda method, _path: problem(507, "storage-full") if method == "PUT" else None
    lab = start()
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))  # the only one: the work thread tries to send it
    aggregator.wait_for(lambda: any("PUT" in request for request in aggregator.requests), "the update")
    aggregator.give(order(2, weights=digest))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1", "train 2"], "the second training")
    aggregator.meddle = lambda _method, _path: None
    aggregator.wait_for_replies("o1", "o2")


# --- giving and cancelling


def test_an_order_given_twice_is_carried_out_once(start: Start, aggregator: Aggregator) -> None:
    lab = start(open=False)
    given = order(1, weights=aggregator.publish(1.0))
    lab.agent.board.reconcile([given, given], [])
    lab.agent.board.reconcile([given], [])
    aggregator.give(given)
    lab.trainer.gate.set()
    aggregator.wait_for_replies("o1")
    assert lab.trainer.begun == ["train 1"]


def test_a_lost_poll_reply_is_given_again(start: Start, aggregator: Aggregator) -> None:
    aggregator.meddle = Once("/v1/poll", ConnectionResetError())
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1")
    assert lab.trainer.begun == ["train 1"]


def test_a_cancelled_order_that_waits_is_never_begun(start: Start, aggregator: Aggregator) -> None:
    lab = start(open=False)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest), order(2, weights=digest))
    aggregator.wait_for(lambda: "o2" in aggregator.holding, "both orders to be held")
    aggregator.withdraw("o2")
    aggregator.wait_for(lambda: "o2" not in aggregator.holding, "the second to be dropped")
    lab.trainer.gate.set()
    aggregator.wait_for_replies("o1")
    aggregator.give(order(3, weights=digest))
    aggregator.wait_for_replies("o3")
    assert lab.trainer.begun == ["train 1", "train 3"]


def test_a_training_cancelled_under_way_is_stopped_and_its_result_discarded(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start(open=False)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "the training")
    aggregator.withdraw("o1")
    aggregator.wait_for(lambda: lab.trainer.stopped == 1 and not aggregator.holding, "it to be stopped")
    lab.trainer.gate.set()
    aggregator.give(order(2, weights=digest))
    aggregator.wait_for_replies("o2")
    assert list(aggregator.updates) == ["o2"] and not aggregator.results


def test_an_order_given_again_after_its_cancellation_is_carried_out_anew(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start(open=False)
    given = order(1, weights=aggregator.publish(1.0))
    aggregator.give(given)
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "the training")
    lab.agent.board.reconcile([], ["o1"])
    lab.agent.board.reconcile([given], [])
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1", "train 1"], "the second training")
    lab.trainer.gate.set()
    aggregator.wait_for_replies("o1")


# --- the network


def test_it_joins_as_soon_as_the_aggregator_is_up(start: Start, aggregator: Aggregator) -> None:
    aggregator.stop()
    start()
    aggregator.start()
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1")
    assert len(aggregator.joins) == 1


def test_it_joins_again_as_the_same_instance_when_the_aggregator_has_lost_its_sessions(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start(open=False)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "the training")
    aggregator.stop()
    lab.trainer.gate.set()  # the update is made while nobody is there to take it
    aggregator.start()
    aggregator.wait_for_replies("o1")
    assert [join.instance for join in aggregator.joins] == ["0" * 32] * 2
    assert lab.trainer.begun == ["train 1"]


@pytest.mark.parametrize(
    "fault", [ConnectionResetError(), (503, b""), problem(507, "storage-full"), (429, b"")]
)
def test_an_update_is_sent_until_it_is_taken(
    start: Start, aggregator: Aggregator, fault: Answer | Exception
) -> None:
    aggregator.meddle = Once("/update", fault, times=3)
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1")
    assert lab.trainer.begun == ["train 1"]
    assert sum(request.startswith("PUT") for request in aggregator.requests) == 4


@pytest.mark.parametrize(
    "status, kind", [(409, "stale"), (409, "superseded"), (403, "not-asked"), (404, "unknown")]
)
def test_an_update_that_is_no_longer_asked_for_is_dropped(
    start: Start, aggregator: Aggregator, status: int, kind: str
) -> None:
    aggregator.meddle = Once("/o1/update", problem(status, kind))
    start()
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for(lambda: any("PUT" in request for request in aggregator.requests), "the update")
    aggregator.withdraw("o1")
    aggregator.give(order(2, weights=digest))
    aggregator.wait_for_replies("o2")
    aggregator.wait_for(lambda: aggregator.holding == (), "everything to be dropped")
    assert "o1" not in aggregator.updates and "o1" not in aggregator.results


def test_what_the_reply_to_an_update_brings_is_used_without_another_request(
    start: Start, aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = aggregator.publish(2.0)
    content = aggregator.contents.pop(digest)  # so it cannot be fetched
    following = order(2, round=2, weights=digest)
    plain, asked = Link.put_update, []

    def put_update(
        link: Link, identity: str, update: Encoded, *wishes: float
    ) -> tuple[UpdateReply, Buffer | None]:
        asked.append(wishes)
        reply = plain(link, identity, update)
        if identity != "o1":
            return reply
        aggregator.orders["o2"] = following
        return UpdateReply(give=(following,)), memoryview(content)

    monkeypatch.setattr(Link, "put_update", put_update)
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1", "o2")
    assert lab.trainer.seen == [1.0, 2.0]
    assert f"GET /v1/weights/{digest}" not in aggregator.requests
    wait, inline = asked[0]
    assert wait > 0 and inline > len(content)


def test_an_update_that_cannot_be_taken_is_reported_as_failed(start: Start, aggregator: Aggregator) -> None:
    aggregator.meddle = Once("/o1/update", problem(422, "not-finite", "array update/0000/kernel holds NaN"))
    start()
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1")
    result = aggregator.results["o1"]
    assert result.status == "failed" and result.problem == "urn:roundtable:not-finite"
    assert result.detail == "array update/0000/kernel holds NaN"


def test_an_update_that_arrived_cut_off_is_sent_again_a_few_times(
    start: Start, aggregator: Aggregator
) -> None:
    stalled = problem(422, "truncated", "no byte for 30 s: the sender has stalled")
    aggregator.meddle = Once("/o1/update", stalled, times=2)
    lab = start()
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for_replies("o1")
    assert "o1" in aggregator.updates and lab.trainer.begun == ["train 1"]
    aggregator.meddle = Once("/o2/update", stalled, times=9)
    aggregator.give(order(2, weights=digest))
    aggregator.wait_for_replies("o2")
    assert aggregator.results["o2"].problem == "urn:roundtable:truncated"


def test_a_spoiled_download_is_fetched_again(start: Start, aggregator: Aggregator) -> None:
    right = aggregator.publish(1.0)
    wrong = aggregator.publish(2.0)
    aggregator.meddle = Once(f"/v1/weights/{right}", (200, aggregator.contents[wrong]))
    lab = start()
    aggregator.give(order(1, weights=right))
    aggregator.wait_for_replies("o1")
    assert lab.trainer.seen == [1.0]


def test_a_download_that_is_spoiled_each_time_fails_the_order(start: Start, aggregator: Aggregator) -> None:
    digest = aggregator.publish(1.0)
    aggregator.meddle = Once(f"/v1/weights/{digest}", (200, aggregator.contents[digest][:-8]), times=3)
    start()
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for_replies("o1")
    assert (aggregator.results["o1"].status, aggregator.results["o1"].problem) == (
        "failed",
        "urn:roundtable:truncated",
    )


def test_weights_that_are_not_there_fail_the_order(start: Start, aggregator: Aggregator) -> None:
    start()
    aggregator.give(order(1, weights="d" * 64))
    aggregator.wait_for_replies("o1")
    assert (aggregator.results["o1"].status, aggregator.results["o1"].problem) == (
        "failed",
        "urn:roundtable:unknown",
    )


def test_polls_that_are_answered_at_once_with_nothing_are_held_back(
    start: Start, aggregator: Aggregator
) -> None:
    aggregator.poll_seconds = 0.0
    start()
    aggregator.wait_for(lambda: len(aggregator.polls) > 10, "some polls")
    before = len(aggregator.polls)
    threading.Event().wait(0.5)
    assert len(aggregator.polls) - before < 60  # 25 to 50 ms apart


# --- what cannot work


def test_a_worker_with_another_task_source_refuses_the_run(start: Start, aggregator: Aggregator) -> None:
    start()
    aggregator.give(order(1, weights=aggregator.publish(1.0), task_hash="e" * 64))
    aggregator.wait_for_replies("o1")
    result = aggregator.results["o1"]
    assert result.status == "refused" and result.problem == problem_of(SourceMismatch("")).type
    assert "task source" in str(result.detail)


def test_a_worker_with_another_data_set_refuses_the_run(start: Start, aggregator: Aggregator) -> None:
    start()
    aggregator.give(order(1, weights=aggregator.publish(1.0), data_hash="e" * 64))
    aggregator.wait_for_replies("o1")
    assert aggregator.results["o1"].status == "refused" and "data set" in str(aggregator.results["o1"].detail)


def test_a_task_that_cannot_be_loaded_is_refused_in_its_own_words(
    start: Start, aggregator: Aggregator
) -> None:
    def make(_plan: object) -> NumpyTrainer:
        raise InvalidTask("task my_task:MyTask: tasks/my_task.py is not there")

    start(make=make)
    aggregator.give(order(1, "initialize", round=0))
    aggregator.wait_for_replies("o1")
    result = aggregator.results["o1"]
    assert (result.status, result.problem) == ("refused", "urn:roundtable:invalid-task")
    assert result.detail == "task my_task:MyTask: tasks/my_task.py is not there"


def test_settings_that_tensorflow_takes_only_once_ask_for_a_fresh_process(
    start: Start, aggregator: Aggregator
) -> None:
    made: list[NumpyTrainer] = []

    def make(plan: object) -> NumpyTrainer:
        if made:
            raise InvalidSetting("training.threads: intra = 2, but this worker's TensorFlow runs with 1")
        made.append(NumpyTrainer(plan))  # type: ignore[arg-type]
        made[-1].gate.set()
        return made[-1]

    lab = start(make=make)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest))
    aggregator.wait_for_replies("o1")
    aggregator.give(order(2, run="r2", weights=digest))
    assert lab.ended.wait(WAIT)
    assert isinstance(lab.ends[0], NeedsFreshProcess) and not aggregator.results


def test_settings_that_a_fresh_process_cannot_take_are_refused(start: Start, aggregator: Aggregator) -> None:
    def make(_plan: object) -> NumpyTrainer:
        raise InvalidSetting("training.threads: no")

    start(make=make)
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1")
    assert aggregator.results["o1"].status == "refused"


def test_an_exception_in_training_is_reported_in_one_line_and_the_worker_goes_on(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start()

    def fail(client: int) -> object:
        if client == 1:
            raise ZeroDivisionError("division\nby zero")
        return weights(2.0)

    lab.trainer.update = fail  # type: ignore[assignment]
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest), order(2, weights=digest))
    aggregator.wait_for_replies("o1", "o2")
    assert (aggregator.results["o1"].status, aggregator.results["o1"].detail) == (
        "failed",
        "ZeroDivisionError: division by zero",
    )
    assert "o2" in aggregator.updates


def test_an_error_that_names_a_file_in_no_utf_8_is_reported_and_the_worker_goes_on(
    start: Start, aggregator: Aggregator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "worker")  # the traceback has the name as it is, which xdist cannot pass on
    lab = start()

    def fail(client: int) -> object:
        if client == 1:
            raise ValueError("cannot read caf\udce9.png")
        if client == 2:
            raise InvalidTask("caf\udce9.png: is no picture")
        return weights(2.0)

    lab.trainer.update = fail  # type: ignore[assignment]
    digest = aggregator.publish(1.0)
    aggregator.give(*(order(client, weights=digest) for client in (1, 2, 3)))
    aggregator.wait_for_replies("o1", "o2", "o3")
    assert aggregator.results["o1"].detail == r"ValueError: cannot read caf\udce9.png"
    assert aggregator.results["o2"].detail == r"caf\udce9.png: is no picture"
    assert "o3" in aggregator.updates


def test_a_wrong_join_token_ends_the_worker_with_a_line_about_the_file(start: Start) -> None:
    lab = start(token="another-token-altogether")
    assert lab.ended.wait(WAIT)
    assert isinstance(lab.ends[0], InvalidSetting)
    assert "JOIN_TOKEN_FILE" in str(lab.ends[0]) and "not the join token" in str(lab.ends[0])


def test_another_protocol_version_ends_the_worker_with_what_the_aggregator_says(
    start: Start, aggregator: Aggregator
) -> None:
    told = "the worker speaks protocol version 1, this aggregator version 7: update the worker"
    aggregator.meddle = Once("/v1/join", problem(426, "incompatible-version", told))
    lab = start()
    assert lab.ended.wait(WAIT)
    assert isinstance(lab.ends[0], IncompatibleVersion)
    assert told in str(lab.ends[0])


def test_a_fault_in_one_thread_ends_the_whole_worker(start: Start, aggregator: Aggregator) -> None:
    lab = start()
    aggregator.wait_for(lambda: bool(aggregator.polls), "a poll")
    lab.agent.board.reconcile = lambda _give, _cancel: 1 / 0  # type: ignore[method-assign]
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    assert lab.ended.wait(WAIT) and isinstance(lab.ends[0], ZeroDivisionError)


# --- leaving


def test_leaving_waits_for_the_training_under_way_and_hands_the_rest_back(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start(open=False)
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest), order(2, weights=digest))
    aggregator.wait_for(lambda: "o2" in aggregator.holding, "both orders to be held")
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "the training")
    leaving = threading.Thread(target=lab.agent.leave, args=(WAIT,))
    leaving.start()
    lab.trainer.gate.set()
    leaving.join(WAIT)
    assert aggregator.arrived == ["o1"] and aggregator.left == 1
    assert lab.trainer.begun == ["train 1"]


def test_leaving_does_not_wait_for_a_training_that_takes_longer(start: Start, aggregator: Aggregator) -> None:
    lab = start(open=False)
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "the training")
    lab.agent.leave(0.05)
    assert aggregator.left == 1 and not aggregator.updates
    aggregator.wait_for(lambda: lab.trainer.stopped == 1, "the training to be stopped")


def test_leaving_works_while_the_aggregator_is_away(start: Start, aggregator: Aggregator) -> None:
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(1.0)))
    aggregator.wait_for_replies("o1")
    aggregator.stop()
    lab.agent.leave(0.5)
    assert not lab.ends

"""The rounds of a run, event by event: what is asked of whom, what counts, and how it ends."""

import pickle
import sys
from dataclasses import replace
from types import FrameType

import pytest
from aggregator.attendance import FAILED_ATTEMPTS
from aggregator.book import Book
from aggregator.events import (
    Accept,
    AcceptAgain,
    BeginRound,
    Close,
    End,
    EvaluationArrived,
    Give,
    InitializeArrived,
    Key,
    OrderFailed,
    PauseAsked,
    Pin,
    Place,
    Reject,
    ResumeAsked,
    RoundCommitted,
    RoundScored,
    Score,
    Show,
    Started,
    StopAsked,
    TimePassed,
    UpdateArrived,
    Wake,
    Withdraw,
    WorkerArrived,
    WorkerGone,
)
from aggregator.facts import Phase
from aggregator.rounds import TRANSITIONS, Rounds
from aggregator.terms import Issued, Recovered, Settings
from roundtable.errors import AlreadyAccepted, IllegalTransition, NotAsked, Stale, StorageFull, Superseded
from roundtable.experiment import parse
from roundtable.strategy.part import Seen


def settings(clients=4, rounds=2, pinned=False, participants=None, **sections):
    body = {
        "name": "x",
        "task": "digits",
        "clients": {"count": clients, "fraction": sections.pop("fraction", 1.0)},
        "rounds": {"count": rounds, **sections.pop("rounds_", {})},
        "evaluation": {"shards": 2, **sections.pop("evaluation", {})},
        **sections,
    }
    if body["evaluation"].get("federated"):
        body["clients"]["holdout"] = 0.1
    if pinned:
        body["partition"] = {"kind": "pinned"}
    return Settings.of("run", parse(body), participants)


class Lab:
    """A driver on paper: it keeps what workers hold, and reports what it is told to."""

    def __init__(self, recovered=None, **fields):
        self.rounds = Rounds(settings(**fields), recovered)
        self.now = 0.0
        self.holding = {}  # (worker, key) → attempt
        self.said = []  # everything
        self.wake = None

    @property
    def state(self):
        """As it was told last."""
        return next(command.state for command in reversed(self.said) if isinstance(command, Show | End))

    def tell(self, event):
        commands = self.rounds.handle(event)
        for command in commands:
            if isinstance(command, Give):
                self.holding[command.worker, command.key] = command.attempt
            elif isinstance(command, Withdraw):
                assert self.holding.pop((command.worker, command.key)) == command.attempt
            elif isinstance(command, Wake):
                self.wake = command.at
        self.said += commands
        return commands

    def join(self, *workers, node=None, pinned=False):
        return [
            command
            for worker in workers
            for command in self.tell(WorkerArrived(worker, node or f"n-{worker}", pinned, self.now))
        ]

    def nodes(self, *nodes):
        return [command for node in nodes for command in self.join(f"w-{node}", node=node, pinned=True)]

    def lose(self, worker):
        self.holding = {held: attempt for held, attempt in self.holding.items() if held[0] != worker}
        return self.tell(WorkerGone(worker, self.now))

    def start(self):
        return self.tell(Started(self.now))

    def send(self, worker, key, attempt=None, digest=None):
        """The worker's reply to an order; by default to the attempt that it holds."""
        attempt = attempt or self.holding[worker, key]
        if key.kind == "initialize":
            event = InitializeArrived(key, attempt, worker, digest or "first", self.now)
        elif key.kind == "train":
            event = UpdateArrived(key, attempt, worker, digest or f"update {key}", self.now)
        else:
            event = EvaluationArrived(key, attempt, worker, self.now)
        commands = self.tell(event)
        if any(isinstance(command, Accept) for command in commands):
            self.holding.pop((worker, key), None)
        return commands

    def fail(self, worker, key, refused=False, detail="out of luck"):
        attempt = self.holding[worker, key]
        return self.tell(OrderFailed(key, attempt, worker, refused, detail, self.now))

    def orders(self, kind):
        """(worker, key) of all that are held, in key order."""
        return sorted((held for held in self.holding if held[1].kind == kind), key=lambda held: held[1])

    def holder(self, key):
        (worker,) = (worker for worker, held in self.holding if held == key)
        return worker

    def finish(self, kind):
        """Every order of this kind is carried out; the last one's commands."""
        commands = []
        for worker, key in self.orders(kind):
            if (worker, key) in self.holding:
                commands = self.send(worker, key)
        return commands

    def commit(self):
        return self.tell(RoundCommitted(self.rounds.round, self.now))

    def score(self, accuracy=0.5):
        self.finish("evaluate")
        return self.tell(RoundScored(self.rounds.committed, accuracy, self.now))

    def pass_time(self, seconds):
        self.now += seconds
        self.wake = None
        return self.tell(TimePassed(self.now))

    def to_round_one(self, *workers):
        """Workers are there, the first weights are committed and scored, round 1 is asked for."""
        self.join(*workers)
        self.start()
        self.finish("initialize")
        commands = self.commit()
        self.score(0.1)
        return commands


def of(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


def only(kind, commands):
    (command,) = of(kind, commands)
    return command


def train(client, round_number=1, trial=1):
    return Key(round_number, "train", trial, client)


# --- the whole way -------------------------------------------------------------------------------------


def test_a_run_from_its_start_to_its_end():
    lab = Lab(clients=3, rounds=1)
    lab.join("w1")
    begun = lab.start()
    assert begun == [Give("w1", Key(0, "initialize"), 1), Show("initializing")]
    assert lab.send("w1", Key(0, "initialize"))[-1] == Close(0, 1, (), (), 0)
    committed = lab.commit()
    assert committed[0] == BeginRound(1, 1, (0, 1, 2))
    assert [give.key for give in of(Give, committed)] == [
        *(train(client) for client in (0, 1, 2)),
        *(Key(0, "evaluate", shard=shard) for shard in (0, 1)),
    ]
    assert only(Place, committed).homes == {0: "w1", 1: "w1", 2: "w1"}
    assert only(Show, committed) == Show("running")
    assert lab.finish("evaluate")[-1] == Score(0)
    assert lab.tell(RoundScored(0, 0.1, 0)) == []
    assert lab.finish("train")[-1] == Close(1, 1, (0, 1, 2), (), 0)
    evaluate = lab.commit()
    assert [give.key.kind for give in of(Give, evaluate)] == ["evaluate", "evaluate"]
    assert lab.finish("evaluate")[-1] == Score(1)
    assert lab.tell(RoundScored(1, 0.9, 0)) == [End("finished", 1, "all 1 rounds are done")]
    assert lab.state == "finished"


def test_the_next_round_and_the_evaluation_of_the_last_are_given_in_one_step():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    lab.finish("train")
    asked = of(Give, lab.commit())
    assert {give.key.kind for give in asked} == {"train", "evaluate"}
    assert {give.key.round for give in asked if give.key.kind == "train"} == {2}
    assert {give.key.round for give in asked if give.key.kind == "evaluate"} == {1}


def test_a_round_is_not_closed_before_the_one_before_it_is_scored():
    lab = Lab()
    lab.to_round_one("w1")
    lab.finish("train")
    lab.commit()
    assert of(Close, lab.finish("train")) == []
    assert lab.rounds.phase is Phase.HOLDING
    assert lab.finish("evaluate")[-1] == Score(1)
    assert lab.tell(RoundScored(1, 0.5, 0)) == [Close(2, 1, (0, 1, 2, 3), (), 0)]


def test_only_every_nth_round_and_the_last_are_evaluated():
    lab = Lab(clients=1, rounds=5, evaluation={"every": 2})
    lab.to_round_one("w1")
    scored = []
    for _ in range(5):
        lab.finish("train")
        lab.commit()
        if lab.orders("evaluate"):
            scored.append(lab.rounds.committed)
            lab.score(0.5)
    assert scored == [2, 4, 5]
    assert lab.state == "finished"


def test_federated_evaluation_asks_every_client_at_its_home_too():
    lab = Lab(clients=4, evaluation={"federated": True})
    lab.join("w1", "w2")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    clients = {key.client: worker for worker, key in lab.orders("evaluate") if key.client >= 0}
    assert clients == lab.rounds.homes
    assert len([key for _, key in lab.orders("evaluate") if key.shard >= 0]) == 2


def test_evaluation_is_spread_evenly():
    lab = Lab(clients=3, evaluation={"shards": 7})
    lab.join("w1", "w2", "w3")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    counts = [sum(worker == name for worker, _ in lab.orders("evaluate")) for name in ("w1", "w2", "w3")]
    assert sorted(counts) == [2, 2, 3]


# --- what counts ---------------------------------------------------------------------------------------


def test_the_same_update_again_succeeds_and_changes_nothing():
    lab = Lab()
    lab.to_round_one("w1")
    lab.send("w1", train(0))
    assert lab.send("w1", train(0), attempt=1) == [AcceptAgain(train(0))]
    assert lab.rounds.arrived == (0,)


def test_another_update_for_the_same_order_is_refused():
    lab = Lab()
    lab.to_round_one("w1")
    lab.send("w1", train(0))
    refused = lab.send("w1", train(0), attempt=1, digest="another")
    assert isinstance(only(Reject, refused).error, AlreadyAccepted)


def test_the_attempt_of_a_worker_thought_lost_is_superseded():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    client = next(key.client for worker, key in lab.orders("train") if worker == "w1")
    moved = lab.lose("w1")
    assert Give("w2", train(client), 2) in moved
    lab.join("w1")
    refused = lab.send("w1", train(client), attempt=1)
    assert isinstance(only(Reject, refused).error, Superseded)
    holder = lab.holder(train(client))  # w1 again, which has its share
    assert only(Accept, lab.send(holder, train(client), attempt=3)).key == train(client)


def test_a_superseded_attempt_with_the_accepted_content_is_a_success():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    client = next(key.client for worker, key in lab.orders("train") if worker == "w1")
    lab.lose("w1")
    lab.send("w2", train(client))
    lab.join("w1")
    assert lab.send("w1", train(client), attempt=1) == [AcceptAgain(train(client))]


def test_updates_of_closed_rounds_and_trials_are_stale():
    lab = Lab(rounds_={"deadline": 10})
    lab.to_round_one("w1")
    lab.pass_time(10)
    assert lab.rounds.trial == 2
    assert isinstance(only(Reject, lab.send("w1", train(0), attempt=1)).error, Stale)
    lab.finish("train")
    lab.commit()
    assert isinstance(only(Reject, lab.send("w1", train(0, trial=2), attempt=1)).error, Stale)


@pytest.mark.parametrize(
    ("worker", "key", "attempt"),
    [
        ("w2", train(0), 1),  # another worker's order
        ("w1", train(0), 2),  # an attempt that was not issued
        ("w1", train(99), 1),  # a client that is not asked
        ("w1", train(0, round_number=2), 1),  # a round that has not begun
        ("w1", train(0, trial=2), 1),
    ],
)
def test_strangers_were_not_asked(worker, key, attempt):
    lab = Lab()
    lab.to_round_one("w1")
    refused = lab.send(worker, key, attempt=attempt)
    assert isinstance(only(Reject, refused).error, NotAsked)
    assert lab.rounds.arrived == ()


def test_a_reply_of_the_wrong_kind_was_not_asked():
    lab = Lab()
    lab.join("w1")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    shard = Key(0, "evaluate", shard=0)
    assert isinstance(only(Reject, lab.tell(UpdateArrived(shard, 1, "w1", "d", 0))).error, Stale | NotAsked)
    assert isinstance(only(Reject, lab.tell(EvaluationArrived(train(0), 1, "w1", 0))).error, NotAsked)
    assert isinstance(only(Reject, lab.tell(InitializeArrived(train(0), 1, "w1", "d", 0))).error, Stale)


def test_first_weights_count_once():
    lab = Lab()
    lab.join("w1")
    lab.start()
    lab.send("w1", Key(0, "initialize"))
    assert lab.send("w1", Key(0, "initialize"), attempt=1) == [AcceptAgain(Key(0, "initialize"))]
    refused = lab.send("w1", Key(0, "initialize"), attempt=1, digest="another")
    assert isinstance(only(Reject, refused).error, Stale)


def test_an_evaluation_counts_once():
    lab = Lab()
    lab.join("w1")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    shard = Key(0, "evaluate", shard=0)
    lab.send("w1", shard)
    assert lab.send("w1", shard, attempt=1) == [AcceptAgain(shard)]
    lab.score()
    assert isinstance(only(Reject, lab.send("w1", shard, attempt=1)).error, Stale)


# --- cutting a cohort ----------------------------------------------------------------------------------


def test_over_sampling_asks_more_and_closes_with_the_cohort_s_size():
    lab = Lab(clients=10, fraction=0.4, rounds_={"oversample": 0.5})
    begun = only(BeginRound, lab.to_round_one("w1"))
    assert len(begun.cohort) == 6
    for client in begun.cohort[1:4]:
        lab.send("w1", train(client))
    closing = lab.send("w1", train(begun.cohort[4]))
    late = (begun.cohort[0], begun.cohort[5])
    assert [withdraw.key.client for withdraw in of(Withdraw, closing)] == list(late)
    assert closing[-1] == Close(1, 1, begun.cohort[1:5], late, 0)
    assert lab.orders("train") == []
    assert isinstance(only(Reject, lab.send("w1", train(late[0]), attempt=1)).error, Stale)


def test_at_the_deadline_a_round_with_its_quorum_is_closed():
    lab = Lab(rounds_={"deadline": 10, "quorum": 0.5})
    lab.to_round_one("w1")
    assert lab.wake == 10
    lab.send("w1", train(3))
    lab.send("w1", train(1))
    assert of(Close, lab.pass_time(9)) == []
    closing = lab.pass_time(1)
    assert only(Close, closing) == Close(1, 1, (1, 3), (0, 2), 0)
    assert {withdraw.key.client for withdraw in of(Withdraw, closing)} == {0, 2}
    assert lab.wake is None


def test_at_the_deadline_a_round_below_its_quorum_is_tried_again_with_another_sample():
    lab = Lab(clients=20, fraction=0.2, rounds_={"deadline": 10, "quorum": 0.75, "retries": 1})
    first = only(BeginRound, lab.to_round_one("w1")).cohort
    lab.send("w1", train(first[0]))
    again = lab.pass_time(10)
    second = only(BeginRound, again)
    assert (second.round, second.trial) == (1, 2)
    assert second.cohort != first
    assert {withdraw.key for withdraw in of(Withdraw, again)} == {train(client) for client in first[1:]}
    assert lab.rounds.arrived == ()
    assert lab.wake == 20
    end = only(End, lab.pass_time(10))
    assert (end.state, end.round) == ("failed", 0)
    assert "round 1 had 0 of the 3 updates" in end.reason and "rounds.deadline" in end.reason
    assert end.discards  # so that a resume draws the next sample


def test_a_resume_after_the_last_trial_draws_the_next_and_has_as_many_again():
    """A crash among them takes none away, and adds none."""
    lab = Lab(
        Recovered(committed=0, accuracies={0: 0.1}, trial=3),
        rounds_={"deadline": 10, "quorum": 0.5, "retries": 1},
    )
    lab.join("w1")
    assert only(BeginRound, lab.start()).trial == 3
    fourth = only(BeginRound, lab.pass_time(10))
    assert fourth.trial == 4
    again = Lab(
        Recovered(committed=0, accuracies={0: 0.1}, trial=4, cohort=fourth.cohort),
        rounds_={"deadline": 10, "quorum": 0.5, "retries": 1},
    )
    again.join("w1")
    again.start()
    for known in (lab, again):
        end = only(End, known.pass_time(10))
        assert end.discards and end.reason.endswith("(trial 4 of 4)")


def test_an_early_alarm_is_told_the_time_again():
    lab = Lab(rounds_={"deadline": 10})
    lab.to_round_one("w1")
    assert of(Wake, lab.pass_time(9.999999)) == [Wake(10)]


def test_the_next_round_has_a_deadline_of_its_own():
    lab = Lab(rounds_={"deadline": 10, "quorum": 0.5})
    lab.to_round_one("w1")
    lab.now = 7
    lab.finish("train")
    assert lab.wake is None
    lab.commit()
    assert lab.wake == 17


# --- workers that come and go --------------------------------------------------------------------------


def test_ten_clients_on_five_workers_are_two_each():
    lab = Lab(clients=10)
    lab.to_round_one("w1", "w2", "w3", "w4", "w5")
    counts = [
        sum(worker == name for worker, _ in lab.orders("train")) for name in ("w1", "w2", "w3", "w4", "w5")
    ]
    assert counts == [2] * 5


def test_a_worker_that_comes_takes_its_share_of_what_was_given_last():
    lab = Lab(clients=5)
    lab.to_round_one("w1")
    lab.send("w1", train(0))
    came = lab.join("w2")
    assert of(Withdraw, came) == [Withdraw("w1", train(4), 1), Withdraw("w1", train(3), 1)]
    assert of(Give, came) == [Give("w2", train(4), 2), Give("w2", train(3), 2)]
    assert only(Place, came).homes == {0: "w1", 1: "w1", 2: "w1", 3: "w2", 4: "w2"}
    assert isinstance(only(Reject, lab.send("w1", train(4), attempt=1)).error, Superseded)
    assert only(Close, lab.finish("train")).lost == 0  # nothing was


def test_a_worker_that_comes_takes_nothing_from_who_has_but_one():
    lab = Lab(clients=2)
    lab.to_round_one("w1", "w2")
    assert of(Give, lab.join("w3")) == []


def test_a_worker_that_comes_takes_its_share_of_an_evaluation():
    lab = Lab(evaluation={"shards": 4}, rounds=1)
    lab.to_round_one("w1")
    lab.finish("train")
    lab.commit()
    assert [give.key.shard for give in of(Give, lab.join("w2"))] == [3, 2]
    lab.finish("evaluate")
    lab.score()
    assert lab.state == "finished"


def test_when_all_are_lost_and_come_back_one_by_one_they_share_what_is_open():
    lab, workers = Lab(clients=10), ("w1", "w2", "w3", "w4", "w5")
    lab.to_round_one(*workers)
    before = {worker: {key for other, key in lab.orders("train") if other == worker} for worker in workers}
    again = sum(len(of(Give, lab.lose(worker))) for worker in workers)
    lab.join("w5")
    assert {worker for worker, _ in lab.orders("train")} == {"w5"}
    for worker in workers[:-1]:
        lab.join(worker)
    after = [worker for worker, _ in lab.orders("train")]
    assert [after.count(worker) for worker in workers] == [2] * 5
    assert {key for worker, key in lab.orders("train") if worker == "w5"} == before["w5"]  # was at them
    assert only(Close, lab.finish("train")).lost == again


def test_a_machine_acted_out_by_the_real_clock_goes_on_where_it_is():
    machines = {"samples_per_second": 100, "profiles": {"slow": {"compute": 0.5}}}
    real, virtual = (Lab(machines=machines | {"clock": clock}) for clock in ("real", "virtual"))
    for lab in (real, virtual):
        lab.to_round_one("w1")
    assert of(Give, real.join("w2")) == []
    assert len(of(Give, virtual.join("w2"))) == 2


def test_a_worker_that_comes_during_a_pause_gets_its_share_from_the_next_round_on():
    lab = Lab()
    lab.to_round_one("w1")
    lab.tell(PauseAsked("disk full", lab.now))
    assert of(Give, lab.join("w2")) == []
    lab.tell(ResumeAsked(lab.now))
    lab.finish("train")
    lab.commit()
    assert sorted(worker for worker, _ in lab.orders("train")) == ["w1", "w1", "w2", "w2"]


def test_the_orders_of_a_lost_worker_are_given_evenly_to_the_others():
    lab = Lab(clients=9)
    lab.to_round_one("w1", "w2", "w3")
    moved = lab.lose("w3")
    assert {give.attempt for give in of(Give, moved)} == {2}
    counts = [sum(worker == name for worker, _ in lab.orders("train")) for name in ("w1", "w2")]
    assert sorted(counts) == [4, 5]
    assert "w3" not in only(Place, moved).homes.values()
    assert only(Close, lab.finish("train")).lost == 3


def test_clients_that_are_not_asked_move_too_when_their_worker_is_lost():
    lab = Lab(clients=12, fraction=0.25)
    lab.to_round_one("w1", "w2", "w3")
    homes = only(Place, lab.lose("w2")).homes
    assert sorted(homes) == list(range(12))
    assert sorted(list(homes.values()).count(name) for name in ("w1", "w3")) == [6, 6]


def test_a_worker_that_says_it_is_there_again_keeps_its_orders():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    assert lab.join("w1") == []


def test_when_every_worker_is_lost_the_run_waits_and_then_goes_on_in_the_same_round():
    lab = Lab(rounds_={"wait_for_workers": 60})
    lab.to_round_one("w1", "w2")
    lab.send(lab.holder(train(0)), train(0))
    lab.lose("w1")
    waiting = lab.lose("w2")
    assert only(Show, waiting).state == "waiting"
    assert "start one" in only(Show, waiting).reason
    assert only(Wake, waiting) == Wake(60)
    lab.now = 30
    back = lab.join("w2")
    assert only(Show, back) == Show("running")
    assert only(Wake, back) == Wake(None)
    assert {give.key for give in of(Give, back)} == {train(1), train(2), train(3)}
    assert only(Close, lab.finish("train")).participants == (0, 1, 2, 3)


def test_a_worker_that_comes_back_alone_keeps_its_attempts_and_takes_the_others_under_the_next():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    mine = {key for worker, key in lab.orders("train") if worker == "w1"}
    lab.lose("w2")
    theirs = {key for _, key in lab.orders("train")} - mine
    lab.lose("w1")
    attempts = {give.key: give.attempt for give in of(Give, lab.join("w1"))}
    assert attempts == dict.fromkeys(mine, 1) | dict.fromkeys(theirs, 2)


def test_the_reply_of_a_worker_thought_lost_counts_while_nobody_else_has_its_order():
    lab = Lab()
    lab.to_round_one("w1")
    lab.lose("w1")
    assert only(Accept, lab.send("w1", train(0), attempt=1)).key == train(0)
    assert train(0) not in {give.key for give in of(Give, lab.join("w2"))}


def test_without_workers_for_too_long_the_run_fails_and_says_what_to_do():
    lab = Lab(rounds_={"wait_for_workers": 60})
    assert only(Show, lab.start()).state == "waiting"
    end = only(End, lab.pass_time(60))
    assert (end.state, end.round) == ("failed", -1)
    assert "60 s" in end.reason and "start one" in end.reason


def test_a_run_that_waits_begins_with_the_first_worker():
    lab = Lab()
    lab.start()
    begun = lab.join("w1")
    assert only(Give, begun).key == Key(0, "initialize")
    assert only(Wake, begun) == Wake(None)


def test_the_initialize_order_moves_too():
    lab = Lab()
    lab.join("w1")
    lab.start()
    lab.join("w2")
    assert of(Give, lab.lose("w1")) == [Give("w2", Key(0, "initialize"), 2)]


def test_the_clock_of_a_deadline_does_not_run_while_nobody_is_there():
    lab = Lab(rounds_={"deadline": 10, "quorum": 0.5, "retries": 0, "wait_for_workers": 60})
    lab.to_round_one("w1")
    lab.lose("w1")
    assert of(End, lab.pass_time(10)) == []
    lab.join("w1")
    assert lab.wake == 20
    assert lab.rounds.trial == 1


# --- failures and refusals -----------------------------------------------------------------------------


def test_an_order_that_failed_goes_to_another_worker_under_the_next_attempt():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    holder = lab.holder(train(0))
    other = {"w1": "w2", "w2": "w1"}[holder]
    assert of(Give, lab.fail(holder, train(0))) == [Give(other, train(0), 2)]
    assert isinstance(only(Reject, lab.send(holder, train(0), attempt=1)).error, Superseded)


def test_an_order_that_failed_goes_to_the_same_worker_where_there_is_no_other():
    lab = Lab()
    lab.to_round_one("w1")
    assert of(Give, lab.fail("w1", train(0))) == [Give("w1", train(0), 2)]


def test_an_order_that_fails_too_often_fails_the_run():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    for _ in range(FAILED_ATTEMPTS - 1):
        assert of(End, lab.fail(lab.holder(train(2)), train(2))) == []
    end = only(End, lab.fail(lab.holder(train(2)), train(2), detail="no memory left"))
    assert end.state == "failed"
    assert "train client 2" in end.reason and "3 times" in end.reason and "no memory left" in end.reason


def test_a_failure_that_is_told_twice_counts_once():
    lab = Lab()
    lab.to_round_one("w1")
    failed = OrderFailed(train(0), 1, "w1", False, "out of luck", 0)
    assert of(Give, lab.tell(failed)) == [Give("w1", train(0), 2)]
    assert lab.tell(failed) == []


def test_a_worker_that_refuses_is_asked_for_nothing_more():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    refused = lab.fail("w2", next(key for worker, key in lab.orders("train") if worker == "w2"), refused=True)
    assert {give.worker for give in of(Give, refused)} == {"w1"}
    assert {worker for worker, _ in lab.holding} == {"w1"}
    lab.finish("train")
    lab.commit()
    assert {worker for worker, _ in lab.holding} == {"w1"}


def test_a_worker_that_refused_is_asked_again_once_it_joins_again():
    lab = Lab()
    lab.join("w1")
    lab.start()
    lab.fail("w1", Key(0, "initialize"), refused=True)
    lab.lose("w1")
    assert of(Give, lab.join("w1")) == [Give("w1", Key(0, "initialize"), 2)]


def test_a_reply_after_a_refusal_does_not_count_even_while_nobody_else_has_the_order():
    lab = Lab()
    lab.to_round_one("w1")
    lab.fail("w1", train(0), refused=True)
    assert isinstance(only(Reject, lab.send("w1", train(1), attempt=1)).error, Superseded)


def test_where_every_worker_refuses_the_run_waits_saying_why_and_then_fails():
    lab = Lab(rounds_={"wait_for_workers": 60})
    lab.join("w1")
    lab.start()
    refused = lab.fail("w1", Key(0, "initialize"), refused=True, detail="another task source")
    assert only(Show, refused).state == "waiting"
    assert "another task source" in only(Show, refused).reason
    assert "another task source" in only(End, lab.pass_time(60)).reason


# --- stop conditions -----------------------------------------------------------------------------------


def test_reaching_the_target_ends_the_run_with_that_round_and_discards_the_next():
    lab = Lab(rounds=5, stop={"accuracy": 0.9})
    lab.to_round_one("w1")
    lab.finish("train")
    lab.commit()
    lab.send("w1", train(0, round_number=2))
    lab.finish("evaluate")
    ended = lab.tell(RoundScored(1, 0.93, 0))
    assert {withdraw.key for withdraw in of(Withdraw, ended)} == {train(client, 2) for client in (1, 2, 3)}
    end = only(End, ended)
    assert (end.state, end.round) == ("finished", 1)
    assert "0.9300" in end.reason
    assert lab.holding == {}


def test_patience_ends_the_run_after_so_many_evaluations_without_improvement():
    lab = Lab(rounds=9, clients=1, stop={"patience": 2})
    lab.to_round_one("w1")
    ends = []
    for accuracy in (0.5, 0.5, 0.6, 0.55, 0.6):
        lab.finish("train")
        lab.commit()
        ends.append(of(End, lab.score(accuracy)))
    assert ends[:4] == [[]] * 4
    assert (ends[4][0].state, ends[4][0].round) == ("finished", 5)
    assert "0.6000" in ends[4][0].reason


def test_a_task_without_accuracy_runs_all_its_rounds():
    lab = Lab(rounds=3, clients=1, stop={"patience": 1, "accuracy": 0.1})
    lab.join("w1")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    for _ in range(3):
        lab.score(None)
        lab.finish("train")
        lab.commit()
    assert only(End, lab.score(None)).round == 3


# --- stop, pause, resume -------------------------------------------------------------------------------


def test_stopping_withdraws_everything_and_keeps_the_last_committed_round():
    lab = Lab()
    lab.to_round_one("w1")
    ended = lab.tell(StopAsked("by its user", 0))
    assert lab.holding == {}
    assert ended[-1] == End("stopped", 0, "by its user")
    assert isinstance(only(Reject, lab.send("w1", train(0), attempt=1)).error, Stale)


def test_a_stop_during_a_commit_waits_for_it():
    lab = Lab()
    lab.to_round_one("w1")
    lab.finish("train")
    assert lab.tell(StopAsked("by its user", 0)) == []
    assert lab.commit() == [End("stopped", 1, "by its user")]


def test_a_stop_during_a_commit_that_fails_does_not_wait():
    lab = Lab()
    lab.to_round_one("w1")
    lab.finish("train")
    lab.tell(StopAsked("by its user", 0))
    assert lab.tell(PauseAsked("disk full", 0)) == [End("stopped", 0, "by its user")]


def test_a_paused_run_accepts_nothing_and_keeps_what_it_has():
    lab = Lab(rounds_={"deadline": 10, "quorum": 0.5})
    lab.to_round_one("w1")
    lab.send("w1", train(0))
    paused = lab.tell(PauseAsked("disk full", 0))
    assert paused == [Show("paused", "disk full"), Wake(None)]
    assert isinstance(only(Reject, lab.send("w1", train(1))).error, StorageFull)
    assert lab.pass_time(100) == []
    resumed = lab.tell(ResumeAsked(lab.now))
    assert resumed[0] == BeginRound(1, 1, (0, 1, 2, 3))
    assert of(Give, resumed) == [Give("w1", train(client), 1) for client in (1, 2, 3)]
    assert only(Show, resumed) == Show("running")
    assert only(Wake, resumed) == Wake(110)
    assert only(Close, lab.finish("train")).participants == (0, 1, 2, 3)


def test_a_commit_that_failed_is_asked_for_again_after_the_pause():
    lab = Lab()
    lab.to_round_one("w1")
    close = only(Close, lab.finish("train"))
    lab.tell(PauseAsked("disk full", 0))
    assert only(Close, lab.tell(ResumeAsked(0))) == close


def test_a_commit_that_succeeds_during_a_pause_counts():
    lab = Lab()
    lab.to_round_one("w1")
    lab.finish("train")
    lab.tell(PauseAsked("disk full", 0))
    assert lab.commit() == []
    resumed = lab.tell(ResumeAsked(0))
    assert only(BeginRound, resumed).round == 2
    assert {give.key.round for give in of(Give, resumed) if give.key.kind == "evaluate"} == {1}


def test_a_sum_that_failed_is_asked_for_again_after_the_pause():
    lab = Lab()
    lab.join("w1")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    assert lab.finish("evaluate")[-1] == Score(0)
    lab.tell(PauseAsked("disk full", 0))
    assert of(Score, lab.tell(ResumeAsked(0))) == [Score(0)]


@pytest.mark.parametrize("last", [1, 3])
def test_an_update_that_could_not_be_recorded_is_wanted_again(last):
    lab = Lab()
    lab.to_round_one("w1")
    for client in range(last + 1):
        lab.send("w1", train(client))
    lab.tell(PauseAsked("disk full", 0, unrecorded=(train(last),)))
    assert last not in lab.rounds.arrived
    resumed = lab.tell(ResumeAsked(0))
    assert Give("w1", train(last), 1) in resumed
    assert of(Close, resumed) == []
    assert only(Close, lab.finish("train")).participants == (0, 1, 2, 3)


def test_the_clients_cut_by_an_update_that_could_not_be_recorded_are_wanted_again():
    lab = Lab(clients=3, fraction=0.67, rounds_={"oversample": 0.5})
    lab.to_round_one("w1")
    lab.send("w1", train(0))
    assert of(Close, lab.send("w1", train(1)))
    lab.tell(PauseAsked("disk full", 0, unrecorded=(train(1),)))
    lab.tell(ResumeAsked(0))
    assert [key for _, key in lab.orders("train")] == [train(1), train(2)]
    assert only(Close, lab.send("w1", train(2))).participants == (0, 2)


def test_first_weights_and_evaluations_that_could_not_be_recorded_are_wanted_again():
    lab = Lab()
    lab.join("w1")
    lab.start()
    first, shard = Key(0, "initialize"), Key(0, "evaluate", shard=0)
    lab.send("w1", first)
    lab.tell(PauseAsked("disk full", 0, unrecorded=(first,)))
    assert of(Give, lab.tell(ResumeAsked(0))) == [Give("w1", first, 1)]
    lab.send("w1", first)
    lab.commit()
    lab.finish("evaluate")
    lab.tell(PauseAsked("disk full", 0, unrecorded=(shard,)))
    assert Give("w1", shard, 1) in lab.tell(ResumeAsked(0))
    assert lab.send("w1", shard)[-1] == Score(0)


def test_workers_lost_during_a_pause_are_replaced_after_it():
    lab = Lab()
    lab.to_round_one("w1", "w2")
    lab.tell(PauseAsked("disk full", 0))
    assert lab.lose("w2") == []
    resumed = lab.tell(ResumeAsked(0))
    assert {give.worker for give in of(Give, resumed)} == {"w1"}
    assert len(of(Give, resumed)) == 4


# --- pinned --------------------------------------------------------------------------------------------


def test_a_pinned_run_waits_until_every_node_has_joined_and_names_clients_by_node():
    lab = Lab(clients=3, pinned=True)
    lab.start()
    lab.nodes("pi-c")
    lab.join("w-any")
    waiting = lab.nodes("pi-a")
    assert only(Show, waiting).reason.startswith("2 of 3 nodes")
    assert "pi-a, pi-c" in only(Show, waiting).reason
    begun = lab.nodes("pi-b")
    assert only(Pin, begun).nodes == {"pi-a": 0, "pi-b": 1, "pi-c": 2}
    assert lab.rounds.pinned_clients == {"pi-a": 0, "pi-b": 1, "pi-c": 2}
    assert only(Give, begun).key == Key(0, "initialize")


def test_pinned_nodes_that_never_come_fail_the_run_naming_how_many():
    lab = Lab(clients=3, pinned=True, rounds_={"wait_for_workers": 60})
    lab.start()
    lab.nodes("pi-a", "pi-b")
    end = only(End, lab.pass_time(60))
    assert "2 of 3 nodes" in end.reason and "clients.count" in end.reason


def pinned_lab(**fields):
    lab = Lab(clients=3, pinned=True, **fields)
    lab.nodes("a", "b", "c")
    lab.join("x-any")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    lab.score(0.1)
    return lab


def test_pinned_clients_are_asked_where_their_data_is_and_never_move():
    lab = pinned_lab()
    assert {key.client: worker for worker, key in lab.orders("train")} == {0: "w-a", 1: "w-b", 2: "w-c"}
    moved = lab.lose("w-b")
    assert of(Give, moved) == []
    assert only(Show, moved).state == "waiting"
    assert "(b)" in only(Show, moved).reason
    assert of(Give, lab.nodes("b")) == [Give("w-b", train(1), 1)]
    assert only(Close, lab.finish("train")).participants == (0, 1, 2)


def test_a_node_that_comes_back_as_another_worker_gets_its_client_under_the_next_attempt():
    lab = pinned_lab()
    lab.lose("w-b")
    assert of(Give, lab.join("w-b2", node="b", pinned=True)) == [Give("w-b2", train(1), 2)]


def test_a_round_goes_on_without_a_node_where_deadline_and_quorum_allow():
    lab = pinned_lab(rounds_={"deadline": 10, "quorum": 0.6})
    gone = lab.lose("w-b")
    assert of(Show, gone) == []
    lab.finish("train")
    assert lab.rounds.phase is Phase.TRAINING
    assert only(Close, lab.pass_time(10)).participants == (0, 2)


def test_a_node_that_is_away_is_not_eligible():
    lab = pinned_lab(rounds_={"deadline": 10, "quorum": 0.6})
    lab.lose("w-b")
    lab.finish("train")
    lab.pass_time(10)
    assert only(BeginRound, lab.commit()).cohort == (0, 2)
    lab.score()
    assert only(Close, lab.finish("train")) == Close(2, 1, (0, 2), (), 0)


def test_a_round_that_waited_for_a_node_is_tried_again_with_others_before_the_run_fails():
    lab = Lab(clients=4, fraction=0.5, pinned=True, rounds_={"wait_for_workers": 60, "retries": 1})
    lab.nodes("a", "b", "c", "d")
    lab.start()
    lab.finish("initialize")
    asked = only(BeginRound, lab.commit()).cohort
    lab.score(0.1)
    lab.lose(lab.holder(train(asked[0])))
    again = only(BeginRound, lab.pass_time(60))
    assert again.trial == 2 and asked[0] not in again.cohort
    assert lab.state == "running"


def test_the_evaluation_of_a_node_that_left_does_not_hold_up_a_round():
    lab = Lab(clients=3, pinned=True, evaluation={"federated": True}, rounds_={"deadline": 9, "quorum": 0.6})
    lab.nodes("a", "b", "c")
    lab.start()
    lab.finish("initialize")
    lab.commit()
    lab.lose("w-b")
    assert {key.client for _, key in lab.orders("evaluate") if key.client >= 0} == {0, 2}
    assert lab.finish("evaluate")[-1] == Score(0)


# --- replay --------------------------------------------------------------------------------------------


def test_a_replay_asks_exactly_who_took_part():
    lab = Lab(clients=5, rounds=9, participants=((1, 4), (0, 2, 3)), rounds_={"deadline": 1, "quorum": 0.5})
    assert only(BeginRound, lab.to_round_one("w1")).cohort == (1, 4)
    assert lab.wake is None
    assert only(Close, lab.finish("train")).participants == (1, 4)
    assert only(BeginRound, lab.commit()).cohort == (0, 2, 3)
    lab.score()
    lab.finish("train")
    lab.commit()
    assert only(End, lab.score()).round == 2


# --- after a restart -----------------------------------------------------------------------------------


def test_a_restarted_round_asks_only_for_what_is_not_in():
    open_round = Recovered(
        committed=0,
        accuracies={0: 0.1},
        trial=2,
        cohort=(0, 1, 2, 3),
        accepted={1: "one", 3: "three"},
        issued={train(0, trial=2): Issued(4, "w1"), train(2, trial=2): Issued(1, "w2")},
        homes={0: "w1", 1: "w2", 2: "w2", 3: "w1"},
    )
    lab = Lab(open_round)
    lab.join("w1", "w2")
    begun = lab.start()
    assert of(Give, begun) == [Give("w1", train(0, trial=2), 4), Give("w2", train(2, trial=2), 1)]
    assert of(BeginRound, begun) == []
    again = lab.send("w2", train(1, trial=2), attempt=1, digest="one")
    assert again == [AcceptAgain(train(1, trial=2))]
    assert only(Close, lab.finish("train")) == Close(1, 2, (0, 1, 2, 3), (), 0)


def test_after_a_restart_the_orders_of_a_worker_that_is_gone_move():
    lab = Lab(
        Recovered(
            committed=0,
            accuracies={0: 0.1},
            trial=1,
            cohort=(0, 1, 2, 3),
            issued={train(client): Issued(1, "w1" if client < 2 else "w2") for client in range(4)},
            homes={0: "w1", 1: "w1", 2: "w2", 3: "w2"},
        )
    )
    lab.join("w1")
    attempts = {give.key.client: give.attempt for give in of(Give, lab.start())}
    assert attempts == {0: 1, 1: 1, 2: 2, 3: 2}


def test_a_round_that_was_complete_is_closed_at_once_after_a_restart():
    accepted = {client: str(client) for client in range(4)}
    lab = Lab(Recovered(committed=0, accuracies={0: 0.1}, trial=1, cohort=(0, 1, 2, 3), accepted=accepted))
    assert lab.start()[0] == Close(1, 1, (0, 1, 2, 3), (), 0)


def test_the_deadline_of_a_restarted_round_starts_anew():
    begun = Recovered(committed=0, accuracies={0: 0.1}, trial=1, cohort=(0, 1, 2, 3))
    lab = Lab(begun, rounds_={"deadline": 10, "quorum": 0.5})
    lab.now = 500
    lab.join("w1")
    lab.start()
    assert lab.wake == 510


def test_first_weights_that_were_accepted_are_kept_after_a_restart():
    lab = Lab(Recovered(initialized="first"))
    assert lab.start()[0] == Close(0, 1, (), (), 0)


def test_evaluations_that_were_accepted_are_not_asked_again_after_a_restart():
    shard = Key(0, "evaluate", shard=0)
    lab = Lab(
        Recovered(committed=0, evaluated=frozenset({shard}), trial=1, cohort=(0,), accepted={0: "d"}),
        clients=1,
    )
    lab.join("w1")
    assert [give.key for give in of(Give, lab.start())] == [Key(0, "evaluate", shard=1)]
    assert lab.send("w1", shard, attempt=1) == [AcceptAgain(shard)]
    assert lab.finish("evaluate")[-1] == Score(0)


def test_a_stop_condition_that_was_met_before_a_restart_still_ends_the_run():
    lab = Lab(Recovered(committed=1, accuracies={0: 0.1, 1: 0.95}), rounds=5, stop={"accuracy": 0.9})
    assert only(End, lab.start()).round == 1


def test_a_pinned_run_keeps_its_clients_over_a_restart():
    known = Recovered(committed=0, accuracies={0: 0.1}, nodes={"b": 0, "c": 1}, homes={0: "w-b", 1: "w-c"})
    lab = Lab(known, clients=2, pinned=True)
    lab.nodes("a", "b", "c")
    begun = lab.start()
    assert of(Pin, begun) == []
    assert {give.key.client: give.worker for give in of(Give, begun)} == {0: "w-b", 1: "w-c"}


@pytest.mark.parametrize(
    ("size", "oversample", "quorum", "asked", "needed"),
    [(10, 0.1, 0.3, 11, 3), (100, 0.0, 0.55, 100, 55), (3, 0.5, 0.5, 5, 2), (1, 0.0, 0.01, 1, 1)],
)
def test_shares_are_rounded_up_but_not_for_a_hair(size, oversample, quorum, asked, needed):
    known = replace(settings(), cohort_size=size, oversample=oversample, quorum=quorum)
    assert (known.asked(1), known.needed(1)) == (asked, needed)


def test_orders_of_closed_rounds_are_forgotten():
    book = Book({train(0): Issued(3, "w1")})
    book.want([train(0)])
    book.give(train(0), "w1")
    book.close(train(0))
    book.forget(2)
    book.want([train(0)])
    assert book.give(train(0), "w1") == Give("w1", train(0), 1)


# --- samplers ------------------------------------------------------------------------------------------


class Remembering:
    """A sampler that keeps what it is told."""

    def __init__(self):
        self.told = []

    def sample(self, seed, round_number, attempt, eligible, size, history):
        self.told.append((seed, round_number, attempt, tuple(eligible), size, dict(history)))
        return tuple(eligible[:size])


def test_the_sampler_is_told_of_seed_round_trial_and_history():
    lab = Lab()
    sampler = Remembering()
    lab.rounds = Rounds(replace(settings(clients=4, fraction=0.5, seed=7), sampler=sampler))
    lab.to_round_one("w1")
    lab.finish("train")
    lab.tell(RoundCommitted(1, 0, seen={0: Seen(1, 0.5, 2.0), 1: Seen(1, None, 3.0)}))
    assert sampler.told == [
        (7, 1, 1, (0, 1, 2, 3), 2, {}),
        (7, 2, 1, (0, 1, 2, 3), 2, {0: Seen(1, 0.5, 2.0), 1: Seen(1, None, 3.0)}),
    ]


# --- the table -----------------------------------------------------------------------------------------


def test_what_the_table_does_not_name_is_an_error_that_changes_nothing():
    lab = Lab()
    with pytest.raises(IllegalTransition, match="TimePassed"):
        lab.tell(TimePassed(0))
    lab.to_round_one("w1")
    for illegal in (Started(0), RoundCommitted(1, 0), RoundScored(0, 0.5, 0), ResumeAsked(0)):
        with pytest.raises(IllegalTransition):
            lab.tell(illegal)
    assert lab.finish("train")[-1] == Close(1, 1, (0, 1, 2, 3), (), 0)
    with pytest.raises(IllegalTransition):
        lab.tell(RoundCommitted(2, 0))


def test_whatever_workers_and_users_may_do_at_any_time_is_legal_at_any_time():
    """The driver's own events (Started, RoundCommitted, RoundScored, ResumeAsked) come at one time only."""
    outside = (WorkerArrived, WorkerGone, OrderFailed, TimePassed, StopAsked, PauseAsked)
    replies = (InitializeArrived, UpdateArrived, EvaluationArrived)
    begun = set(Phase) - {Phase.CREATED}
    assert {(phase, event) for phase in begun for event in outside + replies} <= set(TRANSITIONS)
    assert {event for phase, event in TRANSITIONS if phase is Phase.CREATED} == {
        Started,
        WorkerArrived,
        WorkerGone,
        StopAsked,
    }


def test_after_the_end_everything_is_legal_and_changes_nothing():
    lab = Lab()
    lab.to_round_one("w1")
    end = only(End, lab.tell(StopAsked("by its user", 0)))
    for late in (
        WorkerArrived("w2", "n", False, 0),
        WorkerGone("w1", 0),
        OrderFailed(train(0), 1, "w1", False, "late", 0),
        TimePassed(99),
        RoundCommitted(1, 0),
        RoundScored(0, 0.5, 0),
        StopAsked("again", 0),
        PauseAsked("disk full", 0),
    ):
        assert lab.tell(late) == []
    assert lab.tell(ResumeAsked(0)) == [end]
    for key, kind in ((train(0), UpdateArrived), (Key(0, "initialize"), InitializeArrived)):
        assert isinstance(only(Reject, lab.tell(kind(key, 1, "w1", "d", 0))).error, Stale)
    shard = Key(0, "evaluate", shard=0)
    assert isinstance(only(Reject, lab.tell(EvaluationArrived(shard, 1, "w1", 0))).error, Stale)
    assert (lab.state, lab.rounds.reason) == ("stopped", "by its user")


# --- figures -------------------------------------------------------------------------------------------


def test_a_long_run_does_not_grow():
    lab = Lab(clients=20, rounds=40)
    lab.to_round_one("w1", "w2")
    sizes = []
    for _ in range(39):
        lab.finish("train")
        lab.commit()
        lab.score()
        sizes.append(len(pickle.dumps(lab.rounds)))
    assert sizes[-1] - sizes[3] < 36 * 40  # a number and its score a round


def test_an_event_costs_the_same_however_many_clients_there_are():
    few, many = _steps_an_event(50), _steps_an_event(400)
    assert many < 1.1 * few, (few, many)


def _steps_an_event(clients: int) -> float:
    """Of Python's interpreter, in rounds of so many clients on a tenth as many workers."""
    lab = Lab(clients=clients, rounds=2)
    lab.to_round_one(*(f"w{n}" for n in range(clients // 10)))
    steps = events = 0

    def count(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return count

    for _ in range(2):
        batch = [UpdateArrived(k, lab.holding[w, k], w, "d", 0.0) for w, k in lab.orders("train")]
        before = sys.gettrace()
        sys.settrace(count)
        try:
            for event in batch:
                lab.rounds.handle(event)
            commands = lab.rounds.handle(RoundCommitted(lab.rounds.round, 0.0))
        finally:
            sys.settrace(before)
        events += len(batch) + 1
        lab.holding = {(give.worker, give.key): give.attempt for give in of(Give, commands)}
        lab.score()
    assert (lab.state, events) == ("finished", 2 * (clients + 1))
    return steps / events

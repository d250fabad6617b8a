"""The round machine under any interleaving: workers come and go, replies double and lie, the process dies.

`Interleaving` is a driver with a store that keeps exactly what commands said to record, workers that may send
anything they were ever given, and a crash or a full disk between any two commands. What must hold is checked
after each event.
"""

from dataclasses import dataclass, field

from aggregator.attendance import FAILED_ATTEMPTS
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
from aggregator.rounds import Rounds
from aggregator.terms import Issued, Recovered, Settings
from hypothesis import HealthCheck
from hypothesis import Phase as HypothesisPhase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from roundtable.strategy import UniformSampler

NODES = {f"w{n}": f"n{n}" for n in range(1, 5)} | {"w5": "n1", "w6": "n2"}  # w5 and w6 follow w1 and w2
ARRIVED = {"initialize": InitializeArrived, "train": UpdateArrived, "evaluate": EvaluationArrived}


@dataclass
class Disk:
    """What the store holds."""

    committed: int = -1
    initialized: str | None = None
    accuracies: dict[int, float | None] = field(default_factory=dict)
    begun: BeginRound | None = None
    accepted: dict[int, str] = field(default_factory=dict)
    evaluated: set[Key] = field(default_factory=set)
    issued: dict[Key, Issued] = field(default_factory=dict)
    homes: dict[int, str] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)

    def recover(self):
        begun = self.begun
        return Recovered(
            committed=self.committed,
            initialized=self.initialized if self.committed < 0 else None,
            accuracies=dict(self.accuracies),
            trial=begun.trial if begun else 0,
            cohort=begun.cohort if begun else (),
            accepted=dict(self.accepted),
            evaluated=frozenset(key for key in self.evaluated if key.round == self.committed),
            issued=dict(self.issued),
            homes=dict(self.homes),
            nodes=dict(self.nodes),
        )


@st.composite
def experiments(draw):
    pinned = draw(st.booleans())
    clients = draw(st.integers(1, 3 if pinned else 6))
    deadline = draw(st.sampled_from([None, 10.0]))
    return Settings(
        run="run",
        seed=draw(st.integers(0, 3)),
        clients=clients,
        cohort_size=draw(st.integers(1, clients)),
        pinned=pinned,
        rounds=draw(st.integers(1, 3)),
        deadline=deadline,
        quorum=1.0 if deadline is None else draw(st.sampled_from([0.3, 0.5, 1.0])),
        oversample=draw(st.sampled_from([0.0, 0.5])),
        retries=draw(st.integers(0, 2)),
        wait_for_workers=100.0,
        every=draw(st.integers(1, 2)),
        shards=draw(st.integers(1, 3)),
        federated=draw(st.booleans()),
        accuracy=draw(st.sampled_from([None, 0.8])),
        patience=draw(st.sampled_from([None, 1])),
        sampler=UniformSampler(),
    )


class Interleaving(RuleBasedStateMachine):
    # --- the driver ------------------------------------------------------------------------------------

    @initialize(settings=experiments(), there=st.sets(st.sampled_from(["w1", "w2", "w3", "w4"])))
    def begin(self, settings, there):
        self.settings = settings
        self.disk = Disk()
        self.now = 0.0
        self.present = set()
        self.ever = []  # (worker, key, attempt) of every Give: what workers might still send
        self.given_to = {}  # (key, attempt) → worker
        self.failures = {}
        self.fate = None
        self.end = None
        self.closed = {}  # round → participants, committed
        self.power_on()
        for worker in sorted(there):
            self.come(worker)
        self.tell(Started(self.now))

    def power_on(self):
        self.rounds = Rounds(self.settings, self.disk.recover())
        self.desk = {}  # (worker, key) → attempt
        self.refused = set()
        self.closing = self.scoring = self.alarm = self.shown = None
        self.failures = {}

    def come(self, worker):
        if not any(NODES[other] == NODES[worker] for other in self.present - {worker}):
            self.present.add(worker)
            self.refused.discard(worker)
            self.tell(WorkerArrived(worker, NODES[worker], self.settings.pinned, self.now))

    def tell(self, event):
        """Carry out what follows, unless fate strikes on the way. The answer, where one was due."""
        commands = self.rounds.handle(event)
        answers = [c for c in commands if isinstance(c, Accept | AcceptAgain | Reject)]
        assert len(answers) == isinstance(event, tuple(ARRIVED.values()))
        fate, self.fate = self.fate, None
        for index, command in enumerate(commands):
            if fate == ("crash", index):
                self.crash()
                return None
            writes = isinstance(command, Pin | BeginRound | Give | Accept | Place | Show)
            if fate is not None and fate[0] == "full" and index >= fate[1] and writes:
                self.disk_is_full(commands[index:])
                return None
            self.carry_out(command)
        return answers[0] if answers else None

    def disk_is_full(self, rest):
        for command in rest:
            if isinstance(command, Withdraw | Wake | End):
                self.carry_out(command)
        unrecorded = tuple(command.key for command in rest if isinstance(command, Accept))
        self.tell(PauseAsked("disk full", self.now, unrecorded))

    def crash(self, lost=()):
        """The process dies and starts anew; workers are taken to be there until they prove silent."""
        if self.end is not None:
            return
        self.power_on()
        for worker in sorted(self.present):
            self.tell(WorkerArrived(worker, NODES[worker], self.settings.pinned, self.now))
        self.tell(Started(self.now))
        for worker in lost:
            self.leave(worker)

    def leave(self, worker):
        self.present.discard(worker)
        self.refused.discard(worker)
        self.desk = {held: attempt for held, attempt in self.desk.items() if held[0] != worker}
        self.tell(WorkerGone(worker, self.now))

    def carry_out(self, command):
        assert self.end is None, f"{command} after the end"
        disk = self.disk
        if isinstance(command, Pin):
            assert not disk.nodes or disk.nodes == command.nodes
            disk.nodes = dict(command.nodes)
        elif isinstance(command, BeginRound):
            self.begin_round(command)
        elif isinstance(command, Give):
            self.give(command)
        elif isinstance(command, Withdraw):
            held = self.desk.pop((command.worker, command.key), None)
            assert held in (None, command.attempt)  # None: its Give met a full disk
        elif isinstance(command, Accept):
            self.accept(command)
        elif isinstance(command, Close):
            self.check_close(command)
            assert self.closing in (None, command)
            self.closing = command
        elif isinstance(command, Score):
            self.check_score(command)
            self.scoring = command
        elif isinstance(command, Wake):
            self.alarm = command.at
        elif isinstance(command, Show):
            self.shown = command
        elif isinstance(command, Place):
            disk.homes = dict(command.homes)
        elif isinstance(command, End):
            assert command.round == disk.committed
            self.end = command

    def begin_round(self, begun):
        disk = self.disk
        if disk.begun is not None and (disk.begun.round, disk.begun.trial) == (begun.round, begun.trial):
            assert begun == disk.begun
            return
        assert begun.round == disk.committed + 1
        assert disk.begun is None or begun.trial > disk.begun.trial
        assert begun.trial <= self.settings.retries + 1
        assert self.settings.needed(begun.round) <= len(begun.cohort)
        if not self.settings.pinned:  # who takes part does not depend on who does the work
            everyone = range(self.settings.clients)
            size = self.settings.asked(begun.round)
            sample = self.settings.sampler.sample(
                self.settings.seed, begun.round, begun.trial, everyone, size, {}
            )
            assert begun.cohort == sample
        disk.begun, disk.accepted = begun, {}

    def give(self, give):
        assert give.worker in self.present and give.worker not in self.refused
        others = {worker for worker, key in self.desk if key == give.key} - {give.worker}
        assert not others, "two workers hold one order"
        last = self.disk.issued.get(give.key, Issued(0, ""))
        assert give.attempt > last.attempt or (give.attempt, give.worker) == last
        if self.settings.pinned and give.key.client >= 0:
            assert self.disk.nodes[NODES[give.worker]] == give.key.client
        if give.key.kind == "train":
            begun = self.disk.begun
            assert (give.key.round, give.key.trial) == (begun.round, begun.trial)
            assert give.key.client in begun.cohort and give.key.client not in self.disk.accepted
        assert self.given_to.setdefault((give.key, give.attempt), give.worker) == give.worker
        self.disk.issued[give.key] = Issued(give.attempt, give.worker)
        self.desk[give.worker, give.key] = give.attempt
        self.ever.append((give.worker, give.key, give.attempt))

    def accept(self, accept):
        key, disk = accept.key, self.disk
        if key.kind == "initialize":
            assert disk.committed < 0 and disk.initialized is None
            disk.initialized = accept.digest
        elif key.kind == "train":
            assert (key.round, key.trial) == (disk.begun.round, disk.begun.trial)
            assert key.client in disk.begun.cohort
            assert key.client not in disk.accepted, "a client is counted twice"
            disk.accepted[key.client] = accept.digest
        else:
            assert key.round == disk.committed and key not in disk.evaluated
            disk.evaluated.add(key)
        self.desk = {held: attempt for held, attempt in self.desk.items() if held[1] != key}

    def check_close(self, close):
        disk, settings = self.disk, self.settings
        assert close.round == disk.committed + 1
        if close.round == 0:
            assert disk.initialized is not None
            return
        if settings.due(disk.committed):
            assert disk.committed in disk.accuracies, "closed before the round before it was scored"
        assert (close.round, close.trial) == (disk.begun.round, disk.begun.trial)
        assert close.participants == tuple(sorted(disk.accepted)), "an accepted update is not folded"
        assert sorted(close.participants + close.late) == list(disk.begun.cohort)
        assert len(close.participants) >= settings.needed(close.round), "closed under its quorum"
        if settings.deadline is None:
            assert len(close.participants) == settings.cohort_of(close.round)
        else:
            assert len(close.participants) <= settings.cohort_of(close.round)

    def check_score(self, score):
        assert score.round == self.disk.committed and score.round not in self.disk.accuracies
        shards = {key.shard for key in self.disk.evaluated if key.round == score.round and key.shard >= 0}
        assert shards == set(range(self.settings.shards))
        if self.settings.federated and not self.settings.pinned:
            clients = {key.client for key in self.disk.evaluated if key.round == score.round}
            assert clients >= set(range(self.settings.clients))

    # --- what may happen -------------------------------------------------------------------------------

    running = precondition(lambda self: self.end is None)

    @running
    @rule(worker=st.sampled_from(sorted(NODES)))
    def a_worker_comes(self, worker):
        there, before = self.fit(), dict(self.desk)
        undisturbed = self.fate is None and self.rounds.phase is not Phase.PAUSED
        self.come(worker)
        if undisturbed and self.end is None and worker in self.present and there - {worker}:
            self.check_shares(worker, there - {worker}, before)

    def check_shares(self, worker, others, before):
        """Nobody has two orders more of a kind than a newcomer, and nobody's only one has been taken."""
        for kind in ("train", "evaluate"):
            counts = {
                other: sum(holder == other and key.kind == kind for holder, key in self.desk)
                for other in self.present
            }
            if not self.settings.pinned:
                assert max(counts.values()) - counts[worker] <= 1
            for other in others:
                had = [key for holder, key in before if holder == other and key.kind == kind]
                if len(had) < 2 or self.settings.pinned:
                    assert all((other, key) in self.desk for key in had)
                assert bool(had) <= bool(counts[other])

    @running
    @rule(worker=st.sampled_from(sorted(NODES)))
    def a_worker_goes(self, worker):
        self.leave(worker)

    @running
    @precondition(lambda self: self.desk)
    @rule(data=st.data())
    def an_order_is_done(self, data):
        worker, key = data.draw(st.sampled_from(sorted(self.desk)))
        attempt = self.desk[worker, key]
        answer = self.reply(worker, key, attempt)
        if answer is not None and self.rounds.phase is not Phase.PAUSED:
            assert isinstance(answer, Accept | AcceptAgain)

    @running
    @precondition(lambda self: self.ever)
    @rule(data=st.data(), lie=st.booleans())
    def anything_ever_given_is_sent(self, data, lie):
        worker, key, attempt = data.draw(st.sampled_from(self.ever))
        self.reply(worker, key, attempt, "a lie" if lie else None)

    @running
    @rule(
        worker=st.sampled_from(sorted(NODES)),
        key=st.builds(
            Key,
            st.integers(0, 3),
            st.sampled_from(sorted(ARRIVED)),
            st.integers(1, 2),
            st.integers(-1, 6),
            st.integers(-1, 3),
        ),
        attempt=st.integers(1, 3),
        kind=st.sampled_from(sorted(ARRIVED)),
    )
    def a_stranger_sends_something(self, worker, key, attempt, kind):
        if (worker, key, attempt) not in self.ever:
            answer = self.reply(worker, key, attempt, kind=kind)
            assert not isinstance(answer, Accept)

    def reply(self, worker, key, attempt, digest=None, kind=None):
        kind = kind or key.kind
        if kind == "evaluate":
            return self.tell(EvaluationArrived(key, attempt, worker, self.now))
        return self.tell(ARRIVED[kind](key, attempt, worker, digest or str(key), self.now))

    @running
    @precondition(lambda self: self.desk)
    @rule(data=st.data(), refused=st.booleans())
    def an_order_fails(self, data, refused):
        worker, key = data.draw(st.sampled_from(sorted(self.desk)))
        attempt = self.desk.pop((worker, key))
        self.desk[worker, key] = attempt
        if refused:
            self.refused.add(worker)
        else:
            self.failures[key] = self.failures.get(key, 0) + 1
        self.tell(OrderFailed(key, attempt, worker, refused, "out of luck", self.now))
        if self.failures.get(key, 0) >= FAILED_ATTEMPTS:
            assert self.end is not None and self.end.state == "failed"

    @running
    @precondition(lambda self: self.ever)
    @rule(data=st.data())
    def an_old_order_fails(self, data):
        worker, key, attempt = data.draw(st.sampled_from(self.ever))
        if self.desk.get((worker, key)) != attempt and self.disk.issued[key].attempt != attempt:
            self.tell(OrderFailed(key, attempt, worker, True, "out of luck", self.now))

    @running
    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0]))
    def time_passes(self, seconds):
        self.now += seconds
        if self.alarm is not None and self.alarm <= self.now:
            self.alarm = None
            self.tell(TimePassed(self.now))

    @running
    @precondition(lambda self: self.closing is not None)
    @rule(well=st.booleans(), told=st.booleans())
    def the_commit_is_done(self, well, told):
        self.commit(well, told)

    def commit(self, well=True, told=True):
        close, self.closing = self.closing, None
        if not well:
            self.tell(PauseAsked("disk full", self.now))
            return
        disk = self.disk
        self.closed[close.round] = close.participants
        disk.committed, disk.begun, disk.accepted = close.round, None, {}
        if told:
            self.tell(RoundCommitted(close.round, self.now))
        else:
            self.crash()

    @running
    @precondition(lambda self: self.scoring is not None)
    @rule(
        accuracy=st.sampled_from([None, 0.1, 0.5, 0.7, 0.9]), fate=st.sampled_from(["well", "full", "crash"])
    )
    def the_sum_is_done(self, accuracy, fate):
        self.sum_up(accuracy, fate)

    def sum_up(self, accuracy, fate="well"):
        score, self.scoring = self.scoring, None
        if fate == "full":
            self.tell(PauseAsked("disk full", self.now))
            return
        self.disk.accuracies[score.round] = accuracy
        if fate == "crash":
            self.crash()
        else:
            self.tell(RoundScored(score.round, accuracy, self.now))

    @running
    @rule(dice=st.integers(0, 5))
    def the_disk_may_be_full(self, dice):
        if dice == 5:
            self.tell(PauseAsked("disk full", self.now))

    @running
    @precondition(lambda self: self.rounds.phase is Phase.PAUSED)
    @rule()
    def there_is_room_again(self):
        self.tell(ResumeAsked(self.now))

    @running
    @rule(dice=st.integers(0, 19))
    def the_user_stops_the_run(self, dice):
        if dice == 7:
            self.tell(StopAsked("by its user", self.now))

    @running
    @rule(lost=st.sets(st.sampled_from(sorted(NODES))))
    def the_process_dies(self, lost):
        self.crash(sorted(lost & self.present))

    @running
    @rule(kind=st.sampled_from(["crash", "full"]), index=st.integers(0, 6))
    def fate_will_strike_at_the_next_event(self, kind, index):
        self.fate = (kind, index)

    @running
    @precondition(lambda self: self.desk or self.scoring or self.closing)
    @rule(accuracy=st.sampled_from([None, 0.1, 0.5, 0.7]))
    def all_goes_well_for_a_while(self, accuracy):
        """So that examples get far."""
        self.everything_asked_for_is_done()
        if self.scoring is not None:
            self.sum_up(accuracy)
        if self.closing is not None:
            self.commit()

    def everything_asked_for_is_done(self):
        for worker, key in sorted(self.desk):
            if (worker, key) in self.desk and self.end is None:
                self.reply(worker, key, self.desk[worker, key])

    @precondition(lambda self: self.end is not None)
    @rule(worker=st.sampled_from(sorted(NODES)))
    def after_the_end_nothing_counts(self, worker):
        assert self.rounds.handle(WorkerArrived(worker, NODES[worker], False, self.now)) == []
        assert self.rounds.handle(TimePassed(self.now)) == []
        (answer,) = self.rounds.handle(UpdateArrived(Key(1, "train", 1, 0), 1, worker, "d", self.now))
        assert isinstance(answer, Reject)

    # --- what must hold --------------------------------------------------------------------------------

    def fit(self):
        return self.present - self.refused

    @invariant()
    def after_the_end_nothing_is_held(self):
        if self.end is not None:
            assert self.desk == {} and self.alarm is None
            assert self.rounds.reason == self.end.reason

    @invariant()
    def no_order_is_lost(self):
        """What the store says is missing is on somebody's desk, if anybody there could be asked."""
        if self.end is not None or self.rounds.phase is Phase.PAUSED:
            return
        held = {key for _, key in self.desk}
        assert {worker for worker, _ in self.desk} <= self.fit()
        disk, settings = self.disk, self.settings
        hosts = {NODES[worker] for worker in self.fit()}

        def possible(client):
            return (
                any(disk.nodes[node] == client for node in hosts & set(disk.nodes))
                if settings.pinned
                else hosts
            )

        if self.rounds.phase is Phase.TRAINING:
            assert self.rounds.cohort == disk.begun.cohort
            assert self.rounds.arrived == tuple(sorted(disk.accepted))
            for client in set(disk.begun.cohort) - set(disk.accepted):
                if possible(client):
                    assert Key(disk.begun.round, "train", disk.begun.trial, client) in held
        committed = disk.committed
        if committed >= 0 and settings.due(committed) and committed not in disk.accuracies and self.fit():
            wanted = {Key(committed, "evaluate", shard=shard) for shard in range(settings.shards)}
            if settings.federated and not settings.pinned:
                wanted |= {Key(committed, "evaluate", client=client) for client in range(settings.clients)}
            assert wanted - disk.evaluated <= held
        if self.rounds.phase is Phase.INITIALIZING and self.fit():
            assert Key(0, "initialize") in held

    @invariant()
    def the_latest_attempt_is_the_one_that_is_held(self):
        for (worker, key), attempt in self.desk.items():
            assert self.disk.issued[key] == (attempt, worker)

    @invariant()
    def it_never_hangs(self):
        """Somebody works, the driver works, or it says that it waits, why, and until when."""
        if self.end is not None or self.rounds.phase is Phase.PAUSED:
            return
        assert self.shown.state in ("waiting", "initializing", "running")
        if self.shown.state == "waiting":
            assert self.shown.reason and self.alarm is not None
        else:
            assert self.desk or self.closing or self.scoring or self.alarm is not None
        assert self.alarm is None or self.alarm >= self.now

    @invariant()
    def homes_are_workers_that_are_there(self):
        if self.end is None and self.rounds.phase is not Phase.PAUSED and self.fit() and self.disk.homes:
            assert set(self.disk.homes.values()) <= self.fit()
            assert dict(self.rounds.homes) == self.disk.homes

    def teardown(self):
        """From wherever it is, with workers there and room on the disk, the run comes to its end."""
        if not hasattr(self, "end"):
            return
        self.fate = None
        for _ in range(300):
            if self.end is not None:
                break
            if self.rounds.phase is Phase.PAUSED:
                self.tell(ResumeAsked(self.now))
                continue
            for worker in ("w1", "w2", "w3", "w4"):
                for other in sorted(self.present):
                    if other != worker and NODES[other] == NODES[worker]:
                        self.leave(other)
                if worker in self.refused:
                    self.leave(worker)
                self.come(worker)
            if self.closing is not None:
                self.commit()
            elif self.scoring is not None:
                self.sum_up(0.5)
            elif self.desk:
                self.everything_asked_for_is_done()
            else:
                self.now = self.alarm
                self.time_passes(0.0)
        assert self.end is not None
        if self.end.state == "finished":
            assert sorted(self.closed) == list(range(self.disk.committed + 1))
        if self.end.state == "failed":
            assert (
                "failed 3 times" in self.end.reason
                or "trial" in self.end.reason
                or "waited" in self.end.reason
            )


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = hypothesis_settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    phases=[each for each in HypothesisPhase if each is not HypothesisPhase.explain],  # slow
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

"""What a worker keeps of its run stays within its bounds, and a manifest it cannot use stays unused."""

from __future__ import annotations

import pytest
from roundtable.errors import InvalidTask
from roundtable.experiment import Experiment
from roundtable.messages import Plan
from roundtable.weights import Manifest
from worker.run import Kept, Run

from tests.worker.scripted import MANIFEST, NumpyTrainer


def kept(limit: int = 10) -> Kept[str]:
    return Kept(limit, len)


def test_the_least_recently_used_is_forgotten_first() -> None:
    contents = kept()
    for name in ("a", "b", "c"):
        contents.keep(name, name * 3)
    assert contents.get("a") == "aaa"
    contents.keep("d", "ddd")
    assert [contents.get(name) for name in "abcd"] == ["aaa", None, "ccc", "ddd"]


def test_what_is_larger_than_the_limit_is_kept_alone() -> None:
    contents = kept()
    contents.keep("a", "aaa")
    contents.keep("b", "b" * 50)
    assert (contents.get("a"), contents.get("b")) == (None, "b" * 50)


def test_room_is_made_before_the_next_one_comes() -> None:
    contents = kept(limit=6)
    contents.keep("a", "aaa")
    contents.make_room()
    assert contents.get("a") == "aaa"
    contents.keep("b", "bbb")
    contents.make_room()
    assert (contents.get("a"), contents.get("b")) == (None, "bbb")


def test_a_manifest_that_the_trainer_refuses_is_not_used_later_either() -> None:
    class Other(NumpyTrainer):
        def use(self, _manifest: Manifest) -> None:
            raise InvalidTask("the model built here is not the run's")

    plan = Plan(run="r1", experiment=Experiment(name="e", task="digits"), arrays=MANIFEST.arrays)
    run = Run(plan, Other(plan))
    for _ in range(2):
        with pytest.raises(InvalidTask):
            run.use(plan, MANIFEST)
        assert run.manifest is None

"""What a worker keeps of the run it works for: plan, trainer, and what was fetched, by content hash."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from roundtable.codec import Decoded, form_of
from roundtable.messages import Plan
from roundtable.types import Digest
from roundtable.weights import Manifest, Weights

from worker.facade import Trainer

MESSAGES_KEPT: Final = 2  # this round's, and the last one's while it is still evaluated
STATES_KEPT: Final = 256 << 20  # bytes of client states

T = TypeVar("T")


class Kept(Generic[T]):
    """Contents by hash, the least recently used forgotten past `limit`; the newest always stays."""

    def __init__(self, limit: int, size: Callable[[T], int]) -> None:
        self._limit = limit
        self._size = size
        self._contents: OrderedDict[Digest, T] = OrderedDict()
        self._total = 0

    def get(self, digest: Digest) -> T | None:
        if digest in self._contents:
            self._contents.move_to_end(digest)
        return self._contents.get(digest)

    def keep(self, digest: Digest, content: T) -> None:
        if digest not in self._contents:
            self._total += self._size(content)
        self._contents[digest] = content
        self._contents.move_to_end(digest)
        while len(self._contents) > 1 and self._total > self._limit:
            self._forget_one()

    def make_room(self) -> None:
        """For one more that is as large as the largest kept."""
        largest = max(map(self._size, self._contents.values()), default=0)
        while self._contents and self._total + largest > self._limit:
            self._forget_one()

    def _forget_one(self) -> None:
        _, content = self._contents.popitem(last=False)
        self._total -= self._size(content)


class Run:
    def __init__(self, plan: Plan, trainer: Trainer) -> None:
        self.plan = plan
        self.trainer = trainer
        self.manifest: Manifest | None = None  # until `use`
        self.message_groups = form_of({})  # of a round's global message
        self.state_groups = form_of({})
        self.messages: Kept[Decoded] = Kept(MESSAGES_KEPT, lambda _message: 1)
        self.states: Kept[Weights] = Kept(STATES_KEPT, lambda state: state.manifest.nbytes)

    def use(self, plan: Plan, manifest: Manifest) -> None:
        """Once the run is initialized. Raises InvalidTask where the trainer's model is another."""
        self.trainer.use(manifest)
        self.plan, self.manifest = plan, manifest
        controls = plan.experiment.strategy.objective.controls
        broadcast = {"broadcast": manifest.trainable} if controls else {}
        self.message_groups = form_of({"weights": manifest, **broadcast})
        self.state_groups = form_of({"state": manifest.trainable})

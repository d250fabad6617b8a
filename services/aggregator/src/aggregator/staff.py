"""Who is there, who of them can be asked for work of this run, and which client is where.

The people's side of `rounds`: facts and placement, no orders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from roundtable.types import ClientId, WorkerId

from aggregator.events import WorkerArrived
from aggregator.placement import place, spread


class Staff:
    def __init__(
        self, clients: int, pinned: bool, nodes: Mapping[str, ClientId], homes: Mapping[ClientId, WorkerId]
    ) -> None:
        self.clients = clients
        self.pinned = pinned
        self.nodes = dict(nodes)  # pinned: node → client; empty until all have joined
        self.joined: set[str] = set(nodes)  # pinned: nodes that have ever been there
        self.homes = dict(homes)
        self.moved = False  # homes changed since they were last told
        self.fit: list[WorkerId] = []  # present and not unfit, sorted
        self.unfit: dict[WorkerId, str] = {}  # present, but they refused this run: why
        self.present: dict[WorkerId, WorkerArrived] = {}

    def arrive(self, worker: WorkerArrived) -> None:
        """Whatever it refused before, it may be asked again."""
        self.present[worker.worker] = worker
        self.unfit.pop(worker.worker, None)
        if worker.pinned:
            self.joined.add(worker.node)
        self._count()

    def leave(self, worker: WorkerId) -> bool:
        """Whether it was there."""
        known = self.present.pop(worker, None) is not None
        self.unfit.pop(worker, None)
        self._count()
        return known

    def refuse(self, worker: WorkerId, why: str) -> None:
        if worker in self.present:
            self.unfit[worker] = why
            self._count()

    def _count(self) -> None:
        self.fit = sorted(worker for worker in self.present if worker not in self.unfit)

    # --- clients -----------------------------------------------------------------------------------------

    def eligible(self) -> list[ClientId]:
        """Clients that could be asked now, ascending: all where they are portable and anyone is there."""
        if self.pinned:
            return sorted(self.homes)
        return list(range(self.clients)) if self.fit else []

    def pin(self) -> bool:
        """Once as many nodes as clients have joined: the first of them by name become the clients."""
        if len(self.joined) < self.clients:
            return False
        self.nodes = {node: client for client, node in enumerate(sorted(self.joined)[: self.clients])}
        return True

    def settle(self, asked: Collection[ClientId], load: Callable[[WorkerId], int]) -> None:
        """After someone came or went: clients whose worker is not there move, those being asked by `load`.

        Pinned clients are where their node is, or nowhere.
        """
        before = self.homes
        if self.pinned:
            hosts = {self.present[worker].node: worker for worker in self.fit if self.present[worker].pinned}
            self.homes = {client: hosts[node] for node, client in self.nodes.items() if node in hosts}
        elif self.fit:
            here = dict.fromkeys(self.fit, 0)
            homeless = []
            for client in range(self.clients):
                home = before.get(client)
                if home in here:
                    here[home] += 1
                else:
                    homeless.append(client)
            if homeless:
                loads = {worker: load(worker) for worker in self.fit}
                urgent = spread((client for client in homeless if client in asked), loads)
                for home in urgent.values():
                    here[home] += 1
                others = spread((client for client in homeless if client not in asked), here)
                self.homes = before | urgent | others
        self.moved |= self.homes != before

    def gather(self, cohort: Collection[ClientId]) -> None:
        """Before a round: spread its cohort evenly, moving the fewest."""
        after = place(cohort, self.homes, self.fit, cohort if self.pinned else ())
        self.moved |= after != self.homes
        self.homes = after

    def move(self, client: ClientId, worker: WorkerId) -> None:
        if self.homes.get(client) != worker:
            self.homes[client] = worker
            self.moved = True

    # --- why not -----------------------------------------------------------------------------------------

    def nobody(self) -> str | None:
        """Why no order at all can be given; None: there is someone."""
        if self.fit:
            return None
        if self.unfit:
            worker = min(self.unfit)
            return f"no worker can take this run; {worker} refused it: {self.unfit[worker]}"
        return "no worker is there: start one, or see why the workers do not reach this aggregator"

    def not_joined(self) -> str:
        names = f" ({', '.join(sorted(self.joined))})" if self.joined else ""
        return (
            f"{len(self.joined)} of {self.clients} nodes with their own data have joined{names}: "
            "start a worker with a data folder on each, or set clients.count to how many there are"
        )

    def too_few(self, needed: int) -> str:
        away = sorted(node for node, client in self.nodes.items() if client not in self.homes)
        refused = "".join(f"; {worker} refused: {why}" for worker, why in sorted(self.unfit.items()))
        return (
            f"the round needs {needed} clients, and {len(away)} of {self.clients} nodes are away"
            f" ({', '.join(away)}){refused}: bring them back, or lower rounds.quorum"
        )

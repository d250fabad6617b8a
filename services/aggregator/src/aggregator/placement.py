"""Which worker hosts which client: pure functions from where clients are to where they should be.

A client stays with the worker that has its data in memory, and moves only when that worker is gone or the
load is uneven; then the fewest move. The same arguments give the same answer, in whatever order they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from roundtable.types import ClientId, WorkerId


def place(
    clients: Iterable[ClientId],
    homes: Mapping[ClientId, WorkerId],
    workers: Iterable[WorkerId],
    pinned: Collection[ClientId] = (),
) -> dict[ClientId, WorkerId]:
    """`homes` with `clients` spread evenly over `workers`: no worker has two more of them than another.

    As few of them move as evenness allows. Pinned clients and those not in `clients` keep their entry;
    without workers everyone does.
    """
    after = dict(homes)
    present = sorted(workers)
    if not present:
        return after
    own: dict[WorkerId, list[ClientId]] = {worker: [] for worker in present}
    moving: list[ClientId] = []
    portable = sorted(client for client in clients if client not in pinned)
    for client in portable:
        home = homes.get(client)
        (moving if home is None or home not in own else own[home]).append(client)
    # The larger shares go to those who host most already: Σ min(own, share) is the number that can stay.
    least, extra = divmod(len(portable), len(present))
    crowded = sorted(present, key=lambda worker: (-len(own[worker]), worker))
    shares = {worker: least + (rank < extra) for rank, worker in enumerate(crowded)}
    for worker in present:
        moving += own[worker][shares[worker] :]
        del own[worker][shares[worker] :]
    vacancies = [
        (len(own[worker]) + seat, worker)
        for worker in present
        for seat in range(shares[worker] - len(own[worker]))
    ]
    for client, (_, worker) in zip(sorted(moving), sorted(vacancies), strict=True):
        after[client] = worker
    return after


def spread(clients: Iterable[ClientId], loads: Mapping[WorkerId, int]) -> dict[ClientId, WorkerId]:
    """Each of `clients`, in the order given, to the worker with the smallest load, counted up as it goes.

    `loads` names every worker that may be chosen; there must be one.
    """
    growing = Counter(dict(loads))
    chosen: dict[ClientId, WorkerId] = {}
    for client in clients:
        worker = min(growing, key=lambda name: (growing[name], name))
        growing[worker] += 1
        chosen[client] = worker
    return chosen

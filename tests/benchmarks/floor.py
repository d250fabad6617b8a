"""The floor of a round's coordination: the same bytes and the same folding over plain sockets and threads.

Nothing is checked, hashed or kept: what is left is moving S bytes to each of 5 processes, `update = weights +
0.001` there, S bytes back from each, and one weighted mean. Nobody who moves and folds these bytes with
sockets and numpy can do with much less; ratios are taken to this.
"""

from __future__ import annotations

import multiprocessing
import socket
import struct
import threading
import time

import numpy as np
from roundtable.types import Float32

STEP = np.float32(0.001)
_BLOCK = 32 * 1024  # elements: a block of every update and of the sum stay in the cache
_ORDER = struct.Struct("<IQ")  # round (0: the end), bytes of weights that follow


def run(elements: int, rounds: int, workers: int = 5) -> tuple[list[float], Float32]:
    """Seconds of each round, the first ones (connections, page faults) included, and the weights they end
    with."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=workers)
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_work, args=(listener.getsockname()[1],), daemon=True) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        listener.settimeout(60)
        peers = [_tuned(listener.accept()[0]) for _ in range(workers)]
        return _serve(peers, elements, rounds)
    finally:
        listener.close()
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def _serve(peers: list[socket.socket], elements: int, rounds: int) -> tuple[list[float], Float32]:
    weights = np.zeros(elements, np.float32)
    updates = [np.zeros(elements, np.float32) for _ in peers]
    seconds: list[float] = []
    begin, end = threading.Barrier(len(peers) + 1), threading.Barrier(len(peers) + 1)

    def exchange(peer: socket.socket, update: Float32) -> None:
        for round_ in range(1, rounds + 1):
            begin.wait()
            peer.sendall(_ORDER.pack(round_, weights.nbytes))
            peer.sendall(weights.data.cast("B"))
            _fill(peer, update.data.cast("B"))
            end.wait()
        peer.sendall(_ORDER.pack(0, 0))
        peer.close()

    threads = [threading.Thread(target=exchange, args=pair) for pair in zip(peers, updates, strict=True)]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        started = time.perf_counter()
        begin.wait()
        end.wait()
        _fold(updates, weights)
        seconds.append(time.perf_counter() - started)
    for thread in threads:
        thread.join()
    return seconds, weights


def _fold(updates: list[Float32], out: Float32) -> None:
    share = np.float32(1 / len(updates))
    term = np.empty(_BLOCK, np.float32)
    for first in range(0, out.size, _BLOCK):
        block = slice(first, min(first + _BLOCK, out.size))
        total, part = out[block], term[: out[block].size]
        np.multiply(updates[0][block], share, out=total)
        for update in updates[1:]:
            np.multiply(update[block], share, out=part)
            total += part


def _work(port: int) -> None:
    peer = _tuned(socket.create_connection(("127.0.0.1", port), timeout=60))
    peer.settimeout(None)
    order = bytearray(_ORDER.size)
    weights = update = np.empty(0, np.float32)
    while True:
        _fill(peer, memoryview(order))
        round_, nbytes = _ORDER.unpack(order)
        if not round_:
            return
        if nbytes != weights.nbytes:
            weights, update = np.empty(nbytes // 4, np.float32), np.empty(nbytes // 4, np.float32)
        _fill(peer, weights.data.cast("B"))
        np.add(weights, STEP, out=update)
        peer.sendall(update.data.cast("B"))


def _fill(peer: socket.socket, view: memoryview) -> None:
    while view:
        got = peer.recv_into(view)
        if not got:
            raise ConnectionError("the other side of the benchmark has gone")
        view = view[got:]


def _tuned(peer: socket.socket) -> socket.socket:
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer

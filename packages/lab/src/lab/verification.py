"""`lab verify`: the aggregator's own check of its files, or the ledger's chain alone from afar."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundtable.errors import CorruptStore, NotPossible, RoundtableError
from roundtable.ledger import LedgerEntry, check_chain
from roundtable.messages import RunView
from roundtable.types import RunId, Seconds

from lab import results
from lab.children import python
from lab.native import Folders
from lab.progress import counted

TIME_LIMIT: Seconds = 3600.0  # recomputing every fold of a long run takes its time
NOTHING_TO_VERIFY = 3  # how the aggregator's own check ends where nothing is committed yet


@dataclass(frozen=True)
class Verdict:
    holds: bool
    lines: tuple[str, ...]
    body: Any  # for --json


def of_ledger(run: RunView, entries: Any) -> Verdict:
    """The chain, against the head that the aggregator gives out. Raises NotPossible where neither is yet."""
    if not entries and run.head is None and run.first_order is None:
        raise NotPossible(f"run {run.id} ({run.state}) has no committed round: nothing to verify")
    try:
        head = check_chain(
            [LedgerEntry.model_validate_json(json.dumps(entry)) for entry in entries], run.head
        )
    except (CorruptStore, ValueError) as error:
        return Verdict(
            False,
            (f"{run.id}: does NOT hold: {error}",),
            {"run": run.id, "holds": False, "reason": str(error)},
        )
    words = f"{run.id}: the chain of {len(entries)} entries holds; head {head}"
    return Verdict(
        True,
        (words, "(the files themselves can be checked on the aggregator's machine)"),
        {"run": run.id, "holds": True, "head": head},
    )


def of_files(run: RunId, folders: Folders) -> Verdict:
    """Everything, in a process of the aggregator's. Raises NotPossible for a run without a committed round,
    RoundtableError when it cannot even begin.

    The head that a finished run's result.json names is held against the ledger: a chain alone
    cannot show that all of it was rewritten.
    """
    command = [*python("aggregator.verify"), run, "--state-dir", str(folders.state), "--json"]
    command += _known_head(folders.runs / run)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise RoundtableError(f"{run} cannot be verified within {TIME_LIMIT:.0f} s") from None
    lines = done.stderr.strip().splitlines() or ["no reason"]
    if done.returncode == NOTHING_TO_VERIFY:
        raise NotPossible(lines[-1])
    try:
        body = json.loads(done.stdout)
    except ValueError:
        raise RoundtableError(f"{run} cannot be verified: {lines[-1]}") from None
    return Verdict(bool(body["holds"]), tuple(_words(body)), body)


def _known_head(folder: Path) -> list[str]:
    if not (folder / "result.json").exists():
        return []
    result = results.read(folder)
    return ["--head", result.ledger_head] if result.state == "finished" and result.ledger_head else []


def _words(body: Any) -> list[str]:
    folded = len(body["folded"])
    again = f"{counted(folded, 'round')} folded again from kept updates, to the same bits"
    lines = [
        f"{body['run']}: {body['rounds']} rounds, ledger's head {body['head'] or 'unknown'}",
        f"  {counted(body['files'], 'kept file')} compared with their hashes",
        f"  {again if folded else 'no round folded again: that takes updates that are kept (keep.updates)'}",
    ]
    lines += [f"  PROBLEM: {problem}" for problem in body["problems"]]
    if body["problems"]:
        usable = ", ".join(str(checkpoint["round"]) for checkpoint in body["usable"])
        lines.append(f"  weights that are whole: {f'round {usable}' if usable else 'none'}")
    return [*lines, "  everything holds" if body["holds"] else "  this run does NOT hold"]

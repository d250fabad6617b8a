"""Which lab is meant, and how to reach it: at an address, up on this machine, or started just to be asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from roundtable.errors import Unknown, Unreachable
from roundtable.messages import RunView

from lab.api import Api, read_token
from lab.native import Folders, attached, native


@dataclass(frozen=True)
class Place:
    """Which lab: one that is up at `url`, or one of our own processes on `folders`."""

    folders: Folders
    url: str | None = None
    admin_token_file: Path | None = None
    port: int = 0
    ca: Path | None = None  # of a lab at an https address

    def remote(self) -> Api:
        assert self.url is not None
        token = read_token(self.admin_token_file) if self.admin_token_file else None
        return Api(self.url, token, ca=self.ca)

    @property
    def options(self) -> str:
        """What to add to a command that is suggested to the user, and asks a lab: verify, status, stop."""
        if self.url is not None:
            return _options(
                ("--url", self.url), ("--ca", self.ca), ("--admin-token-file", self.admin_token_file)
            )
        return _options(("--runs-dir", _unusual(self.folders.runs, Folders.runs)))

    @property
    def working(self) -> str:
        """The same for one that reads tasks and data, too: run, resume, replay, export, report."""
        return self.options + _options(
            ("--tasks-dir", _unusual(self.folders.tasks, Folders.tasks)),
            ("--datasets-dir", _unusual(self.folders.datasets, Folders.datasets)),
        )


def _options(*given: tuple[str, object | None]) -> str:
    return "".join(f" {name} {shlex.quote(str(value))}" for name, value in given if value is not None)


def _unusual(folder: Path, default: Path) -> Path | None:
    return None if folder == default else folder


@contextmanager
def reach(place: Place) -> Iterator[tuple[Api, bool]]:
    """An aggregator to ask: at the address, of the lab that is up here, or started for as long as it takes.

    The second value is True where runs can be going on: not in a lab started just now, which has no workers.
    """
    if place.url is not None:
        with place.remote() as api:
            yield api, True
    elif (found := attached(place.folders)) is not None:
        with found as api:
            yield api, True
    elif not place.folders.state.is_dir():
        raise Unknown(
            f"there are no runs in {place.folders.runs}/ yet: "
            f"start one with `lab run experiments/demo.toml{place.working}`"
        )
    else:
        with native(place.folders, port=place.port) as lab, lab.api() as api:
            yield api, False


@contextmanager
def present(place: Place) -> Iterator[Api]:
    """A lab that is up. Raises Unreachable where there is none."""
    found = place.remote() if place.url is not None else attached(place.folders)
    if found is None:
        raise Unreachable(
            f"no lab is up on {place.folders.runs}/: start one with `lab run{place.working}`, or give --url"
        )
    with found as api:
        yield api


def named(place: Place, api: Api, run: str) -> RunView:
    """The run with this id, or the only one whose id begins so; "latest" is the last one. Raises Unknown."""
    runs = api.runs()
    if run == "latest" and runs:
        return runs[-1]
    found = [view for view in runs if view.id == run] or [view for view in runs if view.id.startswith(run)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Unknown(f"{run} could be {', '.join(view.id for view in found[:5])}: give more of the id")
    raise Unknown(f"there is no run {run}: `lab runs{place.options}` lists them")

"""Every error this project raises on purpose, in one tree.

RoundtableError                 the root; str(error) is a line that names the field, the value and the remedy
├── InvalidInput                the user's or the peer's mistake, fixed by changing what was sent
│   ├── InvalidExperiment       an experiment file or body that cannot be run
│   ├── InvalidTask             a task that cannot be found, loaded or used
│   ├── InvalidData             a data set that is missing, corrupt or does not fit its task
│   ├── InvalidSetting          an environment variable, option or token file that cannot be used
│   └── InvalidPayload          bytes that are not the weights they should be
│       ├── Truncated           shorter than they say
│       ├── TooLarge            longer than is allowed
│       ├── ShapeMismatch       arrays missing, unknown, twice named, or of another shape
│       ├── DtypeMismatch       arrays of another dtype
│       └── NotFinite           NaN or infinity
├── Refused                     well-formed, but not acceptable from this peer or at this time
│   ├── Unauthorized            no token, or a wrong one
│   ├── IncompatibleVersion     another protocol version
│   ├── SourceMismatch          another task source or data set than the run's
│   ├── Unknown                 no such run, order, worker or content
│   ├── NotAsked                an update from a worker that was not asked for it
│   ├── Superseded              an update of an attempt that was issued again elsewhere
│   ├── Stale                   an update of a round that is closed
│   ├── AlreadyAccepted         another content than what was accepted for this order
│   ├── RateLimited             too much at once
│   └── NotPossible             a command that the run's state does not allow
├── StorageFull                 no space left in the store or spool, or nothing can be written there for now
├── CorruptStore                a database, checkpoint or ledger that contradicts itself
├── RunFailed                   a run that ended without its result, and why
├── Unreachable                 nothing answers at an address, or a stranger does (never on the wire)
└── IllegalTransition           a bug: an event the state machine has no entry for

`PROBLEMS` maps the tree onto HTTP: the one place where an error gets its status and its stable `type`.
"""

from typing import Final, NamedTuple


class RoundtableError(Exception):
    """The root. One line: what was found, where, and what to do."""


class InvalidInput(RoundtableError): ...


class InvalidExperiment(InvalidInput): ...


class InvalidTask(InvalidInput): ...


class InvalidData(InvalidInput): ...


class InvalidSetting(InvalidInput): ...


class InvalidPayload(InvalidInput): ...


class Truncated(InvalidPayload): ...


class TooLarge(InvalidPayload): ...


class ShapeMismatch(InvalidPayload): ...


class DtypeMismatch(InvalidPayload): ...


class NotFinite(InvalidPayload): ...


class Refused(RoundtableError): ...


class Unauthorized(Refused): ...


class IncompatibleVersion(Refused): ...


class SourceMismatch(Refused): ...


class Unknown(Refused): ...


class NotAsked(Refused): ...


class Superseded(Refused): ...


class Stale(Refused): ...


class AlreadyAccepted(Refused): ...


class RateLimited(Refused): ...


class NotPossible(Refused): ...


class StorageFull(RoundtableError): ...


class CorruptStore(RoundtableError): ...


class RunFailed(RoundtableError): ...


class Unreachable(RoundtableError): ...


class IllegalTransition(RoundtableError): ...


class Problem(NamedTuple):
    """The HTTP face of an error class (RFC 9457)."""

    status: int
    type: str


PROBLEMS: Final[dict[type[RoundtableError], Problem]] = {
    InvalidExperiment: Problem(422, "urn:roundtable:invalid-experiment"),
    InvalidTask: Problem(422, "urn:roundtable:invalid-task"),
    InvalidData: Problem(422, "urn:roundtable:invalid-data"),
    InvalidSetting: Problem(422, "urn:roundtable:invalid-setting"),
    Truncated: Problem(422, "urn:roundtable:truncated"),
    TooLarge: Problem(413, "urn:roundtable:too-large"),
    ShapeMismatch: Problem(422, "urn:roundtable:shape-mismatch"),
    DtypeMismatch: Problem(422, "urn:roundtable:dtype-mismatch"),
    NotFinite: Problem(422, "urn:roundtable:not-finite"),
    InvalidPayload: Problem(422, "urn:roundtable:invalid-payload"),
    InvalidInput: Problem(422, "urn:roundtable:invalid-input"),
    Unauthorized: Problem(401, "urn:roundtable:unauthorized"),
    IncompatibleVersion: Problem(426, "urn:roundtable:incompatible-version"),
    SourceMismatch: Problem(409, "urn:roundtable:source-mismatch"),
    Unknown: Problem(404, "urn:roundtable:unknown"),
    NotAsked: Problem(403, "urn:roundtable:not-asked"),
    Superseded: Problem(409, "urn:roundtable:superseded"),
    Stale: Problem(409, "urn:roundtable:stale"),
    AlreadyAccepted: Problem(409, "urn:roundtable:already-accepted"),
    RateLimited: Problem(429, "urn:roundtable:rate-limited"),
    NotPossible: Problem(409, "urn:roundtable:not-possible"),
    StorageFull: Problem(507, "urn:roundtable:storage-full"),
    CorruptStore: Problem(500, "urn:roundtable:corrupt-store"),
    RunFailed: Problem(500, "urn:roundtable:run-failed"),
    RoundtableError: Problem(500, "urn:roundtable:error"),
}


def problem_of(error: RoundtableError) -> Problem:
    """The entry of the nearest class in `error`'s ancestry that has one."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def error_of(type_uri: str, detail: str) -> RoundtableError:
    """The inverse, for clients: the error that a problem+json body describes."""
    for kind, problem in PROBLEMS.items():
        if problem.type == type_uri:
            return kind(detail)
    return RoundtableError(detail)

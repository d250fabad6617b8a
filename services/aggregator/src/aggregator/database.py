"""One SQLite file, opened with care: WAL, a version, a look for damage; its errors as this project's own.

Beneath `store`, which knows what the tables mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from roundtable.errors import CorruptStore, StorageFull, Unknown

from aggregator.schema import SCHEMA, VERSION

BUSY_SECONDS: Final = 5.0
_MUCH: Final = 16_000  # pages of the log, at which SQLite itself would write them back, waiting for the disk
_REMEDY: Final = (
    "put it back from a copy, or move what is left of it and the folder runs beside it away and start anew;"
    " the weights are safetensors files in runs/RUN/weights, to be copied as they are"
)


class Database:
    """A connection, for one thread at a time. Raises CorruptStore, and StorageFull where nothing can be
    written for now, and nothing was changed."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.logged = 0  # transactions since the log was written back

    def close(self) -> None:
        self._connection.close()

    def one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        try:
            row: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        except sqlite3.DatabaseError as error:
            raise _translated(error, self._path) from error
        return row

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _translated(error, self._path) from error

    def write(self, sql: str, values: tuple[Any, ...]) -> None:
        """One change, whole or not at all; inside a transaction it is part of that."""
        try:
            self._connection.execute(sql, values)
        except sqlite3.DatabaseError as error:
            raise _translated(error, self._path) from error
        if not self._connection.in_transaction:
            self.logged += 1

    def executemany(self, sql: str, values: Iterable[tuple[Any, ...]]) -> None:
        """Inside a transaction."""
        self._connection.executemany(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; within another one it is part of that."""
        connection = self._connection
        if connection.in_transaction:
            yield
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
                self.logged += 1
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _translated(error, self._path) from error

    def write_back(self) -> None:
        """Put the log's pages into the file; waits for the disk. Where that fails they stay in the log."""
        self.logged = 0
        with suppress(sqlite3.DatabaseError):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def open_database(path: Path) -> Database:
    """Open the database, or make it, and look it over. Raises CorruptStore for one that cannot be trusted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_not_lost(path)
        # Another thread may use it, one at a time: who opens it sees to that.
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.DatabaseError) as error:
        raise CorruptStore(
            f"{path} cannot be opened ({error}): look at the folder's owner and mode"
        ) from None
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_MUCH}")  # before that: `write_back`
        db.execute("PRAGMA foreign_keys = ON")
        _check(db, path)
    except sqlite3.DatabaseError as error:
        db.close()
        raise _translated(error, path) from error
    except BaseException:
        db.close()
        raise
    return Database(db, path)


def read_database(path: Path) -> Database:
    """For a look at a database that an aggregator may be using. Raises CorruptStore; Unknown for none."""
    if not path.exists():
        raise Unknown(f"{path} does not exist: name the aggregator's STATE_DIR")
    try:
        db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        db.row_factory = sqlite3.Row
        _check(db, path)
    except sqlite3.DatabaseError as error:
        raise _translated(error, path) from error
    return Database(db, path)


def _check_not_lost(path: Path) -> None:
    """Before SQLite makes a new one, and throws the lost one's log away with that. Raises CorruptStore."""
    there = path.exists()
    if not (there and path.stat().st_size) and any(path.parent.glob("runs/*/weights")):
        what = "is empty" if there else "is not there"
        raise CorruptStore(f"{path} {what}, but runs are in the folder runs beside it: {_REMEDY}")


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Make an empty database's tables. Raises CorruptStore for one that is damaged or of another version."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise CorruptStore(
            f"{path} has version {version}, this aggregator writes version {VERSION}: look at its runs with"
            " the code that wrote it, and start anew in another STATE_DIR (lab: --runs-dir; containers:"
            " `make clean`)"
        )
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise CorruptStore(f"{path} is damaged ({found}): {_REMEDY}")


def _translated(error: sqlite3.DatabaseError, path: Path) -> Exception:
    text = str(error)
    if "is full" in text or "disk I/O" in text:
        return StorageFull(f"no space left for {path} ({text})")
    if "readonly" in text:
        return StorageFull(f"{path} cannot be written to ({text}): look at its disk, its owner and mode")
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error
    if "locked" in text:
        return StorageFull(f"{path} is in use by another process ({text}): end that one")
    return CorruptStore(f"{path} cannot be used ({text}): {_REMEDY}")

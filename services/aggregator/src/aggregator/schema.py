"""The store's tables, of one version: a database of another is refused, not converted."""

from typing import Final

VERSION: Final = 2

SCHEMA: Final = """
CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    experiment TEXT NOT NULL,               -- JSON
    experiment_hash TEXT NOT NULL,
    participants TEXT,                      -- JSON, replay only: who takes part, round by round
    created REAL NOT NULL,                  -- Unix seconds, as all times here
    state TEXT NOT NULL,                    -- messages.RunState
    reason TEXT,
    first_order REAL,
    ended REAL,
    initial TEXT,                           -- content hash of the first weights, once accepted
    initialized TEXT,                       -- messages.Initialized as JSON, with it
    pinned TEXT NOT NULL DEFAULT '{}',      -- JSON: node name → client
    environment TEXT NOT NULL DEFAULT '{}'  -- JSON: versions and machine
);                                          -- with a rowid: which run is the older, whatever the clock said
CREATE INDEX runs_by_experiment ON runs (experiment_hash);

CREATE TABLE rounds (                       -- every sample that was drawn; one is open at most
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    round INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    cohort TEXT NOT NULL,                   -- JSON: clients asked
    started REAL NOT NULL,                  -- the round, with its first trial
    seconds REAL NOT NULL,                  -- that the round had taken when this trial began
    bytes_down INTEGER NOT NULL,            -- and what had been sent
    state TEXT NOT NULL CHECK (state IN ('open', 'discarded', 'committed')),
    PRIMARY KEY (run, round, trial)
) WITHOUT ROWID;
CREATE INDEX open_rounds ON rounds (run) WHERE state = 'open';

CREATE TABLE attempts (                     -- every order that was given
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    round INTEGER NOT NULL,
    kind TEXT NOT NULL,
    trial INTEGER NOT NULL,
    client INTEGER NOT NULL,                -- -1: none, as in events.Key
    shard INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    worker TEXT NOT NULL,
    PRIMARY KEY (run, round, kind, trial, client, shard, attempt)
) WITHOUT ROWID;

CREATE TABLE updates (                      -- accepted ones: in the spool before they are here;
    -- those of a discarded round are deleted
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    round INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    client INTEGER NOT NULL,
    digest TEXT NOT NULL,
    worker TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    nbytes INTEGER NOT NULL,
    account TEXT NOT NULL,                  -- messages.Account as JSON
    state_digest TEXT,
    seconds REAL NOT NULL,                  -- that the round had taken when it was accepted
    bytes_down INTEGER NOT NULL,            -- and what had been sent
    PRIMARY KEY (run, round, trial, client)
) WITHOUT ROWID;

CREATE TABLE evaluations (
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    round INTEGER NOT NULL,
    client INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    worker TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    evaluated TEXT NOT NULL,                -- messages.Evaluated as JSON
    PRIMARY KEY (run, round, client, shard)
) WITHOUT ROWID;

CREATE TABLE commits (                      -- the ledger, and what was learnt of each round since
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    round INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    weights TEXT NOT NULL,                  -- content hashes
    message TEXT NOT NULL,
    server TEXT,
    entry TEXT NOT NULL,                    -- ledger.LedgerEntry as canonical JSON
    entry_hash TEXT NOT NULL,
    record TEXT NOT NULL,                   -- messages.RoundRecord as JSON
    scored INTEGER NOT NULL DEFAULT 0,
    accuracy REAL,
    PRIMARY KEY (run, round)
) WITHOUT ROWID;
CREATE INDEX commits_by_accuracy ON commits (run, accuracy DESC, round);
CREATE INDEX commits_files ON commits (run, round, trial, weights, message, server);  -- no long texts

CREATE TABLE client_states (                -- as of the last committed round
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    client INTEGER NOT NULL,
    digest TEXT NOT NULL,
    round INTEGER NOT NULL,                 -- that it comes from
    PRIMARY KEY (run, client)
) WITHOUT ROWID;

CREATE TABLE homes (
    run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    client INTEGER NOT NULL,
    worker TEXT NOT NULL,
    PRIMARY KEY (run, client)
) WITHOUT ROWID;

CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL UNIQUE,
    join_message TEXT NOT NULL,             -- messages.Join as JSON
    state TEXT NOT NULL CHECK (state IN ('present', 'lost', 'left'))
) WITHOUT ROWID;
"""

"""Exit codes, and which error ends with which.

0    done
1    the run, its verification or its replay failed; or what was to be said cannot be written
2    something that was given is wrong: an option, an experiment, a file, a token, a run's id; or there is
     nothing to verify, replay or export: a line on stderr and nothing on stdout, with --json too
3    no aggregator answers, or it stopped answering
130  interrupted, by Ctrl-C or because nobody reads any more what is said of a run
"""

from __future__ import annotations

from enum import IntEnum

from roundtable.errors import InvalidInput, Refused, RoundtableError, Unreachable


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


EXPLAINED = "Exit codes: 0 done, 1 run or verification failed, 2 bad input, 3 unreachable, 130 interrupted."


def exit_of(error: RoundtableError) -> Exit:
    if isinstance(error, Unreachable):
        return Exit.UNREACHABLE
    return Exit.BAD_INPUT if isinstance(error, InvalidInput | Refused) else Exit.FAILED

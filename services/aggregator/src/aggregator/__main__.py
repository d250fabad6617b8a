"""`python -m aggregator`: the service as a process.

First line on stdout, once requests are taken: `listening http://HOST:PORT`. Logs are JSON lines on stderr.
Exit codes: 0 stopped in order, 2 a setting or a file that cannot be used (one line says which), 1 a fault of
ours.
"""

from __future__ import annotations

import os

for _pool in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")  # before numpy is imported: more threads make a fold stall now and then

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["verify"]:
        from aggregator import verify

        return verify.main(words[1:])
    if words == ["rerun"]:
        from aggregator import rerun

        return rerun.main()
    from roundtable.errors import RoundtableError

    from aggregator.server import serve
    from aggregator.settings import load

    options = _parser().parse_args(words)
    try:
        settings = load(
            host=options.host, port=options.port, state_dir=options.state_dir, log_level=options.log_level
        )
        serve(settings, exit_on_eof=options.exit_on_eof)
    except RoundtableError as error:
        print(f"aggregator: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aggregator",
        description="The aggregator of a Roundtable lab. Options win over environment variables.",
        epilog="`aggregator verify RUN --state-dir DIR` checks a run's ledger and files; "
        "`aggregator rerun` runs EXPERIMENT anew, in the aggregator that is up beside it.",
    )
    parser.add_argument("--host", help="address to listen on (AGGREGATOR_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="0: any free one (AGGREGATOR_PORT, 8080)")
    parser.add_argument("--state-dir", type=Path, help="runs, database and tokens (STATE_DIR, ./state)")
    parser.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], help="(LOG_LEVEL, info)"
    )
    parser.add_argument("--exit-on-eof", action="store_true", help="stop when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())

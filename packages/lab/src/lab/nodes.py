"""What makes other machines part of the lab: `lab certs`, `lab node add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab import certificates
from lab.exits import Exit
from lab.options import out

CERTS = Path("certs")

Certs = Annotated[Path, typer.Option("--certs-dir", help="Where the lab's certificates are.")]


def certs(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME…]",
            help="Names and addresses that nodes reach the aggregator by; by default this machine's.",
            show_default=False,
        ),
    ] = None,
    certs_dir: Certs = CERTS,
) -> int:
    """Make the lab's certificates for TLS: an authority, once, and the aggregator's own, each time anew."""
    made = certificates.make(certs_dir, names or ())
    out.print(f"{made.folder}/: {'a new' if made.new_authority else 'the same'} authority", soft_wrap=True)
    out.print(
        f"the aggregator's certificate: until {made.until:%Y-%m-%d}, for {', '.join(made.names)}",
        soft_wrap=True,
    )
    if made.new_authority:
        out.print(f"nodes trust {made.folder / 'ca.pem'}; the keys stay here", soft_wrap=True)
    return Exit.DONE

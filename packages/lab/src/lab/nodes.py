"""What makes other machines part of the lab: `lab certs`, `lab node add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab import certificates, folder
from lab.exits import Exit
from lab.options import out

CERTS, NODES = Path("certs"), Path("nodes")

Certs = Annotated[Path, typer.Option("--certs-dir", help="Where the lab's certificates are.")]

node = typer.Typer(
    name="node", help="Devices that join this lab: Raspberry Pi, Jetson, …", no_args_is_help=True
)


def certs(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME…]",
            help="Names and addresses that nodes reach the aggregator by, besides this machine's.",
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


@node.command()
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name in the lab, like pi-1.", show_default=False)
    ],
    board: Annotated[
        folder.Board, typer.Option("--board", help="What is read of it besides the usual.")
    ] = folder.Board.none,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="LAB_URL",
            help="Where it reaches the aggregator; by default https at this machine's address.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="A folder on the device with samples of its own (pinned).",
            show_default=False,
        ),
    ] = None,
    join_token_file: Annotated[
        Path | None,
        typer.Option(
            "--join-token-file", help="By default the token of the lab that is up here.", show_default=False
        ),
    ] = None,
    certs_dir: Certs = CERTS,
    nodes_dir: Annotated[Path, typer.Option("--nodes-dir", help="Where the folder goes.")] = NODES,
    allow_plain_http: Annotated[
        bool,
        typer.Option("--allow-plain-http", help="Let it join over http://: on a network of your own alone."),
    ] = False,
) -> int:
    """Write a folder that makes a device part of this lab: copy it there, then `docker compose up -d`."""
    wanted = folder.Wanted(name, board, url, data, join_token_file, certs_dir, allow_plain_http)
    written = folder.write(wanted, nodes_dir)
    out.print(f"{written.path}/: ready for {name}, which will join at {written.url}", soft_wrap=True)
    out.print(f"next: scp -r {written.path} {name}:   and on {name}: see README.md in it", soft_wrap=True)
    return Exit.DONE

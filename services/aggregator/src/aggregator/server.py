"""uvicorn around the app: one socket, bound before anything else; signals; an end in order within seconds."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
import uvloop
from roundtable.errors import InvalidSetting

from aggregator.app import create_app
from aggregator.disk import allow_files
from aggregator.express import Express
from aggregator.heads import bounded
from aggregator.logs import configure, note
from aggregator.receive import protocol
from aggregator.service import Service
from aggregator.settings import ServiceSettings
from aggregator.tls import server_context, tell_failures

_GRACE: Final = 1  # seconds that requests under way get when the service ends
_BACKLOG: Final = 1024


class _Server(uvicorn.Server):
    """Says where it listens, and sends those home who wait before it waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service, url: str) -> None:
        super().__init__(config)
        self._service = service
        self._url = url

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise the signal anew afterwards, and the exit would not be one in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, self, "should_exit", True)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"listening {self._url}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.release()
        await super().shutdown(sockets)


def serve(settings: ServiceSettings, *, exit_on_eof: bool = False) -> None:
    """Until SIGTERM, SIGINT or (with `exit_on_eof`) the end of standard input.

    Raises InvalidSetting for a port or folder in use, for an address beyond this machine without TLS, and for
    certificates that cannot be used; CorruptStore for a database that cannot be used.
    """
    settings.check_reach()
    configure(settings.log_level)
    allow_files()
    tls = server_context(settings.tls_cert_file, settings.tls_key_file)
    with _bound(settings) as listener:
        uvloop.run(_serve(settings, listener, tls, exit_on_eof))


async def _serve(
    settings: ServiceSettings, listener: socket.socket, tls: ssl.SSLContext | None, exit_on_eof: bool
) -> None:
    service = Service(settings)
    await service.open()
    try:
        host, port = listener.getsockname()[:2]
        config = uvicorn.Config(
            Express(create_app(service)),
            http=bounded(protocol()),
            ws="none",
            lifespan="off",  # opened and closed here: a fault on the way is one clear line, not uvicorn's
            access_log=False,
            proxy_headers=False,
            log_config=None,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE,
        )
        if tls is not None:
            config.load()
            config.ssl = tls
            tell_failures(asyncio.get_running_loop())
        name = f"[{host}]" if ":" in host else host
        server = _Server(config, service, f"{settings.scheme}://{name}:{port}")
        if exit_on_eof:
            _stop_at_eof(asyncio.get_running_loop(), server)
        gc.collect()
        gc.freeze()  # what is there by now stays: no later collection need look at it
        gc.set_threshold(10_000, 20, 20)  # a round makes some thousand objects, hardly any of them in cycles
        note("aggregator starts", address=f"{host}:{port}", state=str(settings.state_dir))
        await server.serve([listener])
        note("aggregator stops")
    finally:
        await service.close()


def _bound(settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol named, event loops turn Nagle's algorithm off for what is accepted here.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)  # so that a second aggregator is refused here, and not later
    except OSError as error:
        listener.close()
        why = (error.strerror or str(error)).lower()
        raise InvalidSetting(
            f"AGGREGATOR_PORT {settings.host}:{settings.port}: {why}: try another --port, or 0"
        ) from None
    return listener


def _stop_at_eof(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    """A parent that dies closes the pipe: then this process must not stay behind."""

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass  # no standard input is its end
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)

    threading.Thread(target=watch, name="stdin", daemon=True).start()

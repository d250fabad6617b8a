"""`python -m aggregator rerun`: the service's own experiment anew, in the aggregator that is up beside it.

For `make rerun`, where nothing but the containers is at hand: it speaks to loopback with the admin token.
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.error
import urllib.request
from typing import Any

from roundtable import experiment as experiments
from roundtable.errors import InvalidSetting, RoundtableError
from roundtable.messages import ENDED

from aggregator.settings import ServiceSettings, load


def main() -> int:
    try:
        print(anew(load()))
    except RoundtableError as error:
        print(f"aggregator: {error}", file=sys.stderr)
        return 2
    return 0


def anew(settings: ServiceSettings) -> str:
    """One line: what happened. A run of this experiment that is under way is stopped first."""
    if settings.experiment is None:
        raise InvalidSetting("EXPERIMENT: is not set: name the file of the experiment to run anew")
    experiment = experiments.load(settings.experiment)
    stopped = [
        run["id"]
        for run in _ask(settings, "/v1/runs")
        if run["experiment_hash"] == experiment.digest and run["state"] not in ENDED
    ]
    for run in stopped:
        _ask(settings, f"/v1/runs/{run}/stop", {})
    new = _ask(settings, "/v1/runs", {"experiment": experiment.model_dump(mode="json"), "again": True})
    return f"run {new['id']} begins" + "".join(f"; {run} is stopped" for run in stopped)


def _ask(settings: ServiceSettings, path: str, body: dict[str, Any] | None = None) -> Any:
    try:
        token = settings.admin_token.read_text(encoding="ascii").strip()
    except OSError as error:
        raise InvalidSetting(f"ADMIN_TOKEN_FILE {settings.admin_token}: {error.strerror}") from None
    url = f"{settings.scheme}://127.0.0.1:{settings.port}{path}"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers)
        with _opener(settings).open(request, timeout=30) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise InvalidSetting(
            f"{url} answers {error.code}: {error.read(500).decode(errors='replace')}"
        ) from None
    except OSError as error:
        raise InvalidSetting(f"no aggregator answers at {url} ({error}): start it first") from None


def _opener(settings: ServiceSettings) -> urllib.request.OpenerDirector:
    """Asks this machine itself: a proxy of the environment's is meant for others."""
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_own(settings))
    )


def _own(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Trusts the very certificate that the service shows, whatever names are in it."""
    if settings.tls_cert_file is None:
        return None
    context = ssl.create_default_context(cafile=str(settings.tls_cert_file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context

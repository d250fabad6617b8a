"""How errors are told: in one line, and only where there is somebody to tell."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def test_several_faults_are_one_line_wherever_they_are_found(open_lab):
    async with open_lab() as lab:
        faulty = 'name = "x"\ntask = "digits"\n[clients]\ncount = 0\n[rounds]\ncount = 0\n'
        by_file = await lab.http.post("/v1/experiments", content=faulty, headers=lab.admin)
        body = {
            "experiment": {"name": "x", "task": "digits", "clients": {"count": 0}, "rounds": {"count": 0}}
        }
        by_json = await lab.http.post("/v1/runs", json=body, headers=lab.admin)
    for reply in (by_file, by_json):
        detail = reply.json()["detail"]
        assert reply.status_code == 422 and len(detail.splitlines()) == 1
        first, second = detail.split("; experiment")
        assert "clients.count" in first and "rounds.count" in second

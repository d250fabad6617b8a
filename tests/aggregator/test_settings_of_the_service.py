"""Environment and options."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator.service import Service
from aggregator.settings import load
from roundtable.errors import InvalidSetting


def test_defaults_stay_on_this_machine(monkeypatch):
    for name in ("AGGREGATOR_HOST", "AGGREGATOR_PORT", "STATE_DIR", "LOST_AFTER"):
        monkeypatch.delenv(name, raising=False)
    settings = load()
    assert (settings.host, settings.port, settings.lost_after) == ("127.0.0.1", 8080, 15.0)
    assert settings.join_token == Path("state/tokens/join")


def test_options_win_over_the_environment_and_nothing_does_not(monkeypatch):
    monkeypatch.setenv("AGGREGATOR_PORT", "1234")
    monkeypatch.setenv("STATE_DIR", "elsewhere")
    monkeypatch.setenv("ADMIN_TOKEN_FILE", "/run/secrets/admin")
    settings = load(port=0, state_dir=None)
    assert (settings.port, settings.state_dir) == (0, Path("elsewhere"))
    assert settings.admin_token == Path("/run/secrets/admin")


def test_a_variable_that_is_not_the_service_s_own_sets_nothing(monkeypatch):
    monkeypatch.delenv("AGGREGATOR_HOST", raising=False)
    monkeypatch.delenv("AGGREGATOR_PORT", raising=False)
    monkeypatch.setenv("HOST", "192.0.2.1")
    monkeypatch.setenv("PORT", "99")
    monkeypatch.setenv("WORKERS_OUTLIVE_IT", "false")
    settings = load()
    assert (settings.host, settings.port, settings.workers_outlive_it) == ("127.0.0.1", 8080, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("LOST_AFTER", "soon"), ("LOST_AFTER", "-1"), ("AGGREGATOR_PORT", "70000"), ("LOG_LEVEL", "loud")],
)
def test_a_bad_value_is_one_line_with_its_name_and_what_was_found(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as caught:
        load()
    assert name in str(caught.value) and value in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["file", "file/within", "/proc/none"])
def test_a_spool_that_cannot_be_written_to_is_said_before_any_run(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting, match=r"SPOOL_DIR .*: choose a folder"):
        Service(load(state_dir=tmp_path / "state", spool_dir=tmp_path / folder))

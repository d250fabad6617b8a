"""A worker's settings: environment, options, and one line for each that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from roundtable.errors import InvalidSetting
from worker import machine
from worker.settings import load, read_token

TOKEN = "a-join-token-of-some-length"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "join"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGGREGATOR_URL", "JOIN_TOKEN_FILE", "NODE_NAME", "TASKS_DIR", "DATASETS_DIR", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_is_enough(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOIN_TOKEN_FILE", str(token))
    monkeypatch.setenv("AGGREGATOR_URL", "https://lab.example/fl")
    settings = load([])
    assert settings.aggregator_url == "https://lab.example/fl"
    assert settings.node_name == machine.host()
    assert settings.exit_on_eof is False and settings.data_dir is None


def test_options_override_the_environment(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOIN_TOKEN_FILE", "/nowhere")
    monkeypatch.setenv("NODE_NAME", "pi-1")
    settings = load(["--join-token-file", str(token), "--node-name", "pi-2", "--exit-on-eof"])
    assert (settings.join_token_file, settings.node_name, settings.exit_on_eof) == (token, "pi-2", True)


def test_a_token_is_read_without_its_line_end(token: Path) -> None:
    assert read_token(token) == TOKEN


@pytest.mark.parametrize(
    "content, complaint",
    [(b"", "holds no token"), (b"short", "holds no token"), (b"two words of some length", "holds no token"),
     (b"x" * 600, "holds no token"), (b"\xff" * 20, "cannot be read (it is not ASCII text)")],
)  # fmt: skip
def test_a_malformed_token_file_is_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "join"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting) as refusal:
        load(["--join-token-file", str(path)])
    assert str(refusal.value).startswith(f"JOIN_TOKEN_FILE: {path} {complaint}")
    assert "\n" not in str(refusal.value)


def test_a_folder_is_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"cannot be read \(Is a directory\)"):
        load(["--join-token-file", str(tmp_path)])


def test_a_missing_token_file_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="is not there: start the aggregator, which makes it"):
        load(["--join-token-file", str(tmp_path / "join")])


def test_an_unset_token_file_names_option_and_variable() -> None:
    with pytest.raises(InvalidSetting, match="JOIN_TOKEN_FILE: is not set: give --join-token-file"):
        load([])


@pytest.mark.parametrize(
    "url",
    [
        "10.0.0.5:8080",
        "ftp://lab",
        "http://",
        "http://lab:99999",
        "http://lab:0",
        "http://[::1",
        "http://lab?a=1",
    ],
)
def test_an_address_that_is_none_is_refused(token: Path, url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"AGGREGATOR_URL: .* is no address: write it like http://"):
        load(["--join-token-file", str(token), "--aggregator-url", url])


def test_pinned_data_must_be_a_folder(token: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"DATA_DIR: .*nowhere is no folder"):
        load(["--join-token-file", str(token), "--data-dir", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("seconds", ["-1", "soon", "1e9"])
def test_a_value_out_of_range_names_its_variable(token: Path, seconds: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"LEAVE_SECONDS: .*found '{seconds}'"):
        load(["--join-token-file", str(token), "--leave-seconds", seconds])


def test_an_empty_variable_is_an_unset_one(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "")
    assert load(["--join-token-file", str(token)]).data_dir is None

"""Token files and what they let one do."""

from __future__ import annotations

import os

import pytest
from aggregator.tokens import Tokens, open_tokens
from roundtable.errors import InvalidSetting, Unauthorized


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "tokens"
    return folder / "join", folder / "admin", folder / "session"


def test_absent_tokens_are_made_for_their_owner_only(paths):
    tokens = open_tokens(*paths)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)
    assert len({tokens.join, tokens.admin, tokens.secret}) == 3
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["admin", "join", "session"]


def test_a_start_that_was_killed_while_it_made_a_token_is_in_nobodys_way(paths):
    paths[0].parent.mkdir()
    (paths[0].parent / f".join.{os.getpid()}").touch()  # in a container each start has the same number
    assert open_tokens(*paths).join == paths[0].read_text().strip()


def test_tokens_are_read_again_without_their_line_end(paths):
    first = open_tokens(*paths)
    paths[0].write_text(first.join + "\r\n")
    assert open_tokens(*paths) == first


@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [
        ("", 0o600, "holds no token"),
        ("short", 0o600, "holds no token"),
        ("two words that are long enough", 0o600, "holds no token"),
        ("é" * 40, 0o600, "not ASCII"),
        ("x" * 40, 0o644, "too open"),
        ("x" * 40, 0o602, "too open"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_one_clear_line(paths, content, mode, word):
    open_tokens(*paths)
    paths[1].write_text(content)
    paths[1].chmod(mode)
    with pytest.raises(InvalidSetting, match=word) as caught:
        open_tokens(*paths)
    assert str(paths[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_token_file_is_refused(paths):
    paths[0].mkdir(parents=True)
    with pytest.raises(InvalidSetting, match="join token file"):
        open_tokens(*paths)


def test_each_token_opens_its_own_door():
    tokens = Tokens("j" * 20, "a" * 20, "s" * 20)
    tokens.check_join("Bearer " + "j" * 20)
    tokens.check_admin("bearer  " + "a" * 20 + " ")
    for wrong in (None, "", "Bearer", "Bearer ", "Basic " + "j" * 20, "Bearer " + "a" * 20, "Bearer é"):
        with pytest.raises(Unauthorized):
            tokens.check_join(wrong)
    with pytest.raises(Unauthorized):
        tokens.check_admin("Bearer " + "j" * 20)


def test_a_session_token_names_its_worker_and_no_other():
    tokens = Tokens("j" * 20, "a" * 20, "s" * 20)
    token = tokens.session("w3")
    assert tokens.worker_of(f"Bearer {token}") == "w3"
    mac = token.partition(".")[2]
    for forged in (
        f"w4.{mac}",
        "w3.",
        "w3",
        f"w3.{mac[:-1]}",
        token + "0",
        Tokens("", "", "t" * 20).session("w3"),
    ):
        with pytest.raises(Unauthorized):
            tokens.worker_of(f"Bearer {forged}")

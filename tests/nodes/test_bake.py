"""docker-bake.hcl: what it would build for each board, as buildx reads it; Makefile, compose file and `lab`
name the same things.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
from lab.folder import TARGETS

from tests.nodes.conftest import ROOT

BAKE = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.node.yaml").read_text(encoding="utf-8")


def read(**variables: str) -> dict[str, Any]:
    command = ["docker", "buildx", "bake", "--file", "docker-bake.hcl", "--print"]
    groups = ["default", "release", "boards", "aggregator-arm64"]
    done = subprocess.run(
        [*command, *groups], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["target"]
    return found


@pytest.fixture(scope="module")
def targets() -> dict[str, Any]:
    version = ["docker", "buildx", "version"]
    if not shutil.which("docker") or subprocess.run(version, capture_output=True).returncode:
        pytest.skip("docker buildx is not here")
    return read()


def test_both_images_are_for_both_architectures(targets: dict[str, Any]) -> None:
    for name in ("aggregator", "worker"):
        assert targets[f"{name}-release"]["platforms"] == ["linux/amd64", "linux/arm64"]
        assert targets[f"{name}-release"]["dockerfile"] == f"services/{name}/Dockerfile"
        assert "platforms" not in targets[name]  # this machine's


def test_every_board_has_a_worker_of_its_architecture_and_only_the_orin_a_gpu(
    targets: dict[str, Any],
) -> None:
    for board in ("pi", "jetson-orin", "jetson-xavier", "jetson-nano"):
        assert targets[board]["platforms"] == ["linux/arm64"]
        assert targets[board]["tags"] == ["roundtable-worker:node"]
        assert ("TENSORFLOW" in targets[board]["args"]) == (board == "jetson-orin")
    assert targets["jetson-orin"]["args"]["TENSORFLOW"] == "from-base"
    assert targets["jetson-orin"]["args"]["BASE_IMAGE"].endswith("igpu")


def test_another_python_image_goes_under_all_but_the_orins(targets: dict[str, Any]) -> None:
    elsewhere = read(PYTHON_IMAGE="mirror.local/python:3.11")
    for name, target in elsewhere.items():
        assert (target["args"]["BASE_IMAGE"] == "mirror.local/python:3.11") == (name != "jetson-orin")
    for name, target in targets.items():
        default = re.search(r"^ARG BASE_IMAGE=(.+)$", (ROOT / target["dockerfile"]).read_text(), re.M)
        assert default and (target["args"]["BASE_IMAGE"] == default[1]) == (name != "jetson-orin")


def test_arguments_and_files_are_the_dockerfiles_own(targets: dict[str, Any]) -> None:
    for target in targets.values():
        dockerfile = (ROOT / target["dockerfile"]).read_text(encoding="utf-8")
        assert set(target.get("args", {})) <= set(re.findall(r"^ARG (\w+)", dockerfile, re.M))


def test_what_is_built_for_boards_is_what_the_makefile_saves_and_a_node_starts() -> None:
    assert "image: ${WORKER_IMAGE:-roundtable-worker:node}" in COMPOSE
    assert "docker save --output worker-arm64.tar roundtable-worker:node" in MAKEFILE
    assert set(TARGETS.values()) <= set(re.findall(r'^target "([\w-]+)"', BAKE, re.M))
    offered = re.search(r"image-arm64: .*TARGET=([\w-]+), ([\w-]+), ([\w-]+) or ([\w-]+)", MAKEFILE)
    assert offered and set(offered.groups()) == {"pi", "jetson-orin", "jetson-xavier", "jetson-nano"}


def test_a_target_that_is_no_boards_is_one_line() -> None:
    command = ["make", "--no-print-directory", "image-arm64", "TARGET=worker"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.stderr.startswith("make: docker"):
        pytest.skip(done.stderr.splitlines()[0])
    assert done.returncode and "make: TARGET=worker: is pi, jetson-orin" in done.stderr

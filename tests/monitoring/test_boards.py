"""What is read of each board: the files that its drop-in names are there, and a real Telegraf makes the
points that the dashboards ask for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import boards

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DROP_INS = ROOT / "monitoring" / "telegraf" / "boards"
DASHBOARD = (ROOT / "monitoring" / "grafana" / "dashboards" / "machines.json").read_text(encoding="utf-8")

# nvidia-smi -q -x, as far as it is read: two GPUs, one of which does not tell what it draws.
NVIDIA = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log><driver_version>550.54.14</driver_version><cuda_version>12.4</cuda_version>
<attached_gpus>2</attached_gpus>
{}</nvidia_smi_log>"""
GPU = """<gpu id="00000000:0{n}:00.0"><product_name>NVIDIA Test {n}</product_name><uuid>GPU-{n}</uuid>
<pstate>P0</pstate>
<fb_memory_usage><total>10240 MiB</total><used>{used} MiB</used><free>1 MiB</free></fb_memory_usage>
<utilization><gpu_util>{util} %</gpu_util><memory_util>5 %</memory_util></utilization>
<temperature><gpu_temp>{temp} C</gpu_temp></temperature>
<gpu_power_readings><power_draw>{power}</power_draw></gpu_power_readings></gpu>"""


@pytest.fixture
def telegraf() -> str:
    found = os.environ.get("TELEGRAF") or shutil.which("telegraf")
    if not found:
        pytest.skip("there is no Telegraf here: set TELEGRAF to one")
    return found


def told(telegraf: str, folder: Path, configuration: str, **environment: str) -> set[tuple[str, str, float]]:
    """(measurement, field, value) of all that Telegraf reads once."""
    file = folder / "telegraf.conf"
    file.write_text('[agent]\n  quiet = true\n[[outputs.file]]\n  files = ["stdout"]\n' + configuration)
    done = subprocess.run(
        [telegraf, "--config", file, "--once"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
    )
    assert " E! " not in done.stderr, done.stderr
    found = set()
    for line in done.stdout.splitlines():
        head, fields, _ = re.fullmatch(r"((?:\\.|[^ ])+) (.+) (\d+)", line).groups()  # type: ignore[union-attr]
        for name, value in re.findall(r"(\w+)=(-?[\d.]+)[iu]?(?=,|$)", fields):
            found.add((head.partition(",")[0], name, float(value)))
    return found


@pytest.mark.parametrize("board", sorted(boards.BOARDS))
def test_every_file_that_a_boards_drop_in_names_is_on_such_a_board(board: str, tmp_path: Path) -> None:
    tree = boards.build(board, tmp_path)
    inputs = tomllib.loads((DROP_INS / f"{board}.conf").read_text(encoding="utf-8")).get("inputs", {})
    assert set(inputs) <= {"file"}
    said = set()
    for table in inputs.get("file", []):
        (pattern,) = table["files"]
        found = list(tree.glob(pattern.removeprefix("/hostfs/")))
        assert len(found) == 1, pattern
        said.add((table["name_override"], table["value_field_name"], int(found[0].read_text())))
    assert said == boards.SAYS[board]


def test_there_is_a_tree_for_every_drop_in() -> None:
    assert {file.stem for file in DROP_INS.glob("*.conf")} == set(boards.BOARDS)


@pytest.mark.parametrize("board", sorted(set(boards.BOARDS) - {"none"}))
def test_a_real_telegraf_reads_them(board: str, tmp_path: Path, telegraf: str) -> None:
    tree = boards.build(board, tmp_path / "hostfs")
    configuration = (DROP_INS / f"{board}.conf").read_text(encoding="utf-8").replace("/hostfs", str(tree))
    found = told(telegraf, tmp_path, configuration + "[[inputs.temp]]\n", HOST_SYS=str(tree / "sys"))
    assert boards.SAYS[board] <= found
    if board != "jetson-nano":  # whose tree has no sensor
        assert [value for name, field, value in found if name == "temp"], found


def test_a_real_telegraf_reads_nvidias_own_tool(tmp_path: Path, telegraf: str) -> None:
    gpus = [
        GPU.format(n=1, used=2048, util=37, temp=61, power="180.52 W"),
        GPU.format(n=2, used=1, util=0, temp=30, power="N/A"),
    ]
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\ncat <<'END'\n" + NVIDIA.format("".join(gpus)) + "\nEND\n")
    tool.chmod(0o755)
    found = told(telegraf, tmp_path, f'[[inputs.nvidia_smi]]\n  bin_path = "{tool}"\n')
    assert {
        ("nvidia_smi", "utilization_gpu", 37.0),
        ("nvidia_smi", "memory_used", 2048.0),
        ("nvidia_smi", "temperature_gpu", 61.0),
        ("nvidia_smi", "power_draw", 180.52),
        ("nvidia_smi", "utilization_gpu", 0.0),
    } <= found
    assert [value for _, field, value in found if field == "power_draw"] == [180.52]


@pytest.mark.parametrize(
    "measurement", ["board_power", "jetson_gpu", "nvidia_smi", "pi_supply", "pi_temperature", "temp"]
)
def test_the_machines_dashboard_asks_for_what_boards_tell(measurement: str) -> None:
    assert f'FROM \\"{measurement}\\"' in DASHBOARD

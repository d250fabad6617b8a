"""What `make up` says before it starts anything: the real script, with a docker that answers as it is told.

The folder of tools that the script gets has only what POSIX promises: it cannot come to need anything else.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    "awk",
    "basename",
    "cat",
    "dirname",
    "grep",
    "head",
    "id",
    "ls",
    "sed",
    "sh",
    "sort",
    "tail",
    "tr",
    "wc",
)
GB = 2**30
EXAMPLE = dict(
    re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
)
DOCKER = """#!/bin/sh
case "$*" in
  info*) if [ -n "${ENGINE_SAYS:-}" ]; then echo "$ENGINE_SAYS" >&2; exit 1; fi; echo "$ENGINE" ;;
  "compose version"*) [ -n "${COMPOSE_HERE:-}" ] || exit 1; echo "$COMPOSE_HERE" ;;
  ps*publish=8080*) echo "${PUBLISHES_8080:-}" ;;
  ps*service=worker) for each in ${WORKERS_UP:-}; do echo "$each"; done ;;
esac
"""

# Every setting, and what is none of its values.
BAD: dict[str, tuple[str, ...]] = {
    "EXPERIMENT": ("experiments/minst.toml", "/home/me/mine.toml"),
    "START_WORKERS": ("many", "0"),
    "TASKS": ("./nowhere", "./.env.example"),
    "DATASETS": ("./nowhere", "./.env.example"),
    "REPORTS": ("./nowhere", "./.env.example"),
    "BIND": ("nonsense", "10.0.0.300"),
    "PORT": ("abc", "70000"),
    "ALLOW_PLAIN_HTTP": ("maybe", "1"),
    "GRAFANA_BIND": ("localhost", "::1"),
    "GRAFANA_PORT": ("0", "30 00"),
    "GRAFANA_THEME": ("pink", "Light"),
    "WORKER_CPUS": ("many", "64"),
    "WORKER_MEMORY": ("lots", "100m"),
    "SLOW_WORKER_CPUS": ("-1", "0"),
    "SLOW_WORKER_MEMORY": ("2x", "1k"),
    "AGGREGATOR_MEMORY": ("1 gigabyte", "16m"),
    "TELEGRAF_MEMORY": ("much", "16m"),
    "INFLUXDB_MEMORY": ("1,5g", "200m"),
    "GRAFANA_MEMORY": ("1 g b", "256m"),
    "NODE_NAME": ('"a b"', "x{y}"),
    "BOARD": ("toaster", "pi4"),
    "TELEMETRY_URL": ("telegraf:8186", "ftp://telegraf"),
    "KEEP_POINTS": ("forever", "12h"),
    "AGGREGATOR_IMAGE": ("Roundtable", "-x"),
    "WORKER_IMAGE": ("Roundtable", "a b"),
    "GPU_WORKER_IMAGE": ("Roundtable", "a b"),
    "GPU_BASE_IMAGE": ("Roundtable", "a b"),
}


@dataclass(frozen=True)
class Project:
    """A checkout's files that the script reads, on a machine of its own making."""

    folder: Path
    tools: Path

    def memory(self, total: int, available: int, swap: int = 0) -> None:
        figures = {"MemTotal": total, "MemAvailable": available, "SwapFree": swap}
        lines = [f"{name}:{value // 1024:>16} kB\n" for name, value in figures.items()]
        (self.folder / "proc" / "meminfo").write_text("".join(lines))

    def say(self, *words: str, env: str = "", **settings: str) -> tuple[int, list[str]]:
        """Exit code and lines, for this .env and these variables."""
        (self.folder / ".env").write_text(env)
        variables: Mapping[str, str] = {
            "PATH": str(self.tools),
            "PROC": str(self.folder / "proc"),
            "ENGINE": f"24.0.7 {16 * GB} 4",
            "COMPOSE_HERE": "2.26.1",
            **settings,
        }
        command = ["sh", self.folder / "scripts" / "preflight.sh", *(words or ("up", "5"))]
        done = subprocess.run(command, env=dict(variables), capture_output=True, text=True, timeout=30)
        assert not done.stdout
        return done.returncode, done.stderr.splitlines()

    def refusal(self, *words: str, env: str = "", **settings: str) -> str:
        """The one line it refuses with."""
        code, lines = self.say(*words, env=env, **settings)
        assert code == 1 and len(lines) == 1, (code, lines)
        return lines[0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("scripts/preflight.sh", ".env.example", "experiments/mnist.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("tasks", "datasets", "monitoring/telegraf/boards", "proc/net", "tools"):
        (tmp_path / name).mkdir(parents=True)
    for board in ("none", "pi"):
        (tmp_path / "monitoring" / "telegraf" / "boards" / f"{board}.conf").touch()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "tools" / tool).symlink_to(found)
    docker = tmp_path / "tools" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    (tmp_path / "proc" / "net" / "tcp").touch()
    (tmp_path / "proc" / "net" / "fib_trie").write_text(
        "  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "     |-- 10.0.0.5\n        /32 host LOCAL\n"
    )
    project = Project(tmp_path, tmp_path / "tools")
    project.memory(total=16 * GB, available=14 * GB)
    return project


def test_with_nothing_set_nothing_is_wrong(project: Project) -> None:
    assert project.say() == (0, [])


# --- Docker


def test_without_docker_it_says_what_to_install_and_what_needs_none(project: Project) -> None:
    (project.tools / "docker").unlink()
    line = project.refusal()
    assert line.startswith(
        "make: docker: there is no such command here: install Docker Engine 20.10 or later"
    )
    assert "make demo needs neither" in line


def test_an_engine_that_is_not_running_is_to_be_started(project: Project) -> None:
    line = project.refusal(
        ENGINE_SAYS="Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?"
    )
    assert "docker: no engine answers: start it (sudo systemctl start docker, or Docker Desktop)" in line


def test_an_engine_elsewhere_that_does_not_answer_is_named(project: Project) -> None:
    line = project.refusal("engine", ENGINE_SAYS="dial tcp: i/o timeout", DOCKER_HOST="tcp://10.0.0.9:2375")
    assert "no engine answers at DOCKER_HOST=tcp://10.0.0.9:2375" in line and "i/o timeout" in line


def test_a_user_whom_the_engine_does_not_let_in_is_told_of_the_group(project: Project) -> None:
    line = project.refusal(
        ENGINE_SAYS="permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
    )
    assert "docker: this user may not speak to the engine: run sudo usermod -aG docker" in line


@pytest.mark.parametrize("version", ["2.3.3", "v2.25.0", "1.29.2"])
def test_an_old_compose_is_refused_with_its_version(project: Project, version: str) -> None:
    line = project.refusal("engine", COMPOSE_HERE=version)
    assert line == f"make: docker compose: this is {version}: install Docker Compose 2.26 or later"


@pytest.mark.parametrize("version", ["2.26.0", "v2.39.1-desktop.1", "5.0.0"])
def test_any_later_compose_will_do(project: Project, version: str) -> None:
    assert project.say("engine", COMPOSE_HERE=version) == (0, [])


def test_no_compose_and_an_old_engine_are_each_one_line(project: Project) -> None:
    assert "docker compose: Docker has no compose plugin here" in project.refusal("engine", COMPOSE_HERE="")
    line = project.refusal("engine", ENGINE="19.03.8 8000000000 4")
    assert line == "make: docker: this engine is 19.03.8: install Docker Engine 20.10 or later"


# --- settings


def test_every_setting_is_looked_at() -> None:
    assert set(BAD) == set(EXAMPLE)


@pytest.mark.parametrize("column", [0, 1])
def test_each_bad_value_is_one_line_with_name_value_place_and_remedy(project: Project, column: int) -> None:
    chosen = {name: values[column] for name, values in BAD.items()}
    code, lines = project.say(env="".join(f"{name}={value}\n" for name, value in chosen.items()))
    assert code == 1 and len(lines) == len(chosen)
    for number, (name, value) in enumerate(chosen.items(), 1):
        place = f"make: {name}={value.strip(chr(34))} (.env, line {number}): "
        (line,) = [line for line in lines if line.startswith(place)]
        assert len(line) > len(place) + 10, "what to do"


def test_every_default_and_what_people_write_is_let_through(project: Project) -> None:
    (project.folder / "experiments" / "mine.toml").write_text('task = "digits"\n')
    env = "".join(f"{name}={value}\n" for name, value in EXAMPLE.items() if name != "BOARD")
    assert project.say(env=env) == (0, [])
    assert project.say(
        env="ALLOW_PLAIN_HTTP=true\n"
        '# mine\n\nexport PORT="9000"  # because\r\nWORKER_MEMORY = 1.5GB\nBIND=10.0.0.5\n'
        "GRAFANA_BIND=[::1]\n"
        "WORKER_CPUS=.5\nKEEP_POINTS=1w2d\nEXPERIMENT=./experiments/mine.toml\nNODE_NAME='desk-1'\nBOARD=pi\n"
        "TASKS=${HOME}/tasks\nHTTP_PROXY=http://proxy:3128\nCOMPOSE_PROFILES=slow\nGRAFANA_PORT=\n"
    ) == (0, [])
    assert project.say(env="EXPERIMENT=\nKEEP_POINTS=INF\n") == (0, [])


def test_the_environment_goes_before_the_file_as_it_does_with_compose(project: Project) -> None:
    assert project.say(env="PORT=abc\n", PORT="8081") == (0, [])
    assert "PORT=abc (in the environment): a port is" in project.refusal(env="PORT=8081\n", PORT="abc")


def test_a_setting_that_is_none_is_told_with_the_one_that_was_meant(project: Project) -> None:
    line = project.refusal(env="PORT=8080\nWORKER_MEMROY=1g\n")
    assert line.startswith(
        ".env, line 2: WORKER_MEMROY: there is no such setting (did you mean WORKER_MEMORY?)", 6
    )
    code, lines = project.say(env="COFFEE=black\n")
    assert code == 0 and "note: .env, line 1: COFFEE: the lab has no such setting" in lines[0]


def test_a_line_that_is_no_setting_is_told(project: Project) -> None:
    assert ".env, line 1: PORT 8080: is not NAME=value" in project.refusal(env="PORT 8080\n")


def test_an_address_that_this_machine_does_not_have_is_told_with_those_it_has(project: Project) -> None:
    line = project.refusal(env="BIND=10.0.0.6\n")
    assert "BIND=10.0.0.6 (.env, line 1): is not an address of this machine: 10.0.0.5 127.0.0.1 are" in line


def test_beyond_this_machine_it_wants_certificates_or_a_word(project: Project) -> None:
    line = project.refusal(env="BIND=0.0.0.0\n")
    assert line.startswith(
        "make: BIND=0.0.0.0: beyond this machine tokens and weights want TLS: run make certs"
    )
    assert project.say(env="BIND=0.0.0.0\nALLOW_PLAIN_HTTP=true\n") == (0, [])
    for name in ("compose.yaml", "compose.tls.yaml"):
        (project.folder / name).touch()
    env = "BIND=0.0.0.0\nCOMPOSE_FILE=compose.yaml:compose.tls.yaml\n"
    assert "TLS wants certificates, and there is no certs/server.pem: run make certs" in project.refusal(
        env=env
    )
    (project.folder / "certs").mkdir()
    (project.folder / "certs" / "server.pem").touch()
    assert project.say(env=env) == (0, [])


def test_a_compose_file_that_is_not_there_is_named(project: Project) -> None:
    (project.folder / "compose.yaml").touch()
    line = project.refusal(env="COMPOSE_FILE=compose.yaml:compose.gup.yaml\n")
    assert "there is no compose.gup.yaml here" in line


@pytest.mark.parametrize("words, found", [(("up", "five"), "WORKERS=five"), (("up", "5", "-1"), "SLOW=-1")])
def test_how_many_workers_is_a_number(project: Project, words: tuple[str, ...], found: str) -> None:
    assert project.refusal(*words).startswith(f"make: {found}: a whole number")


def test_fewer_workers_than_the_experiment_waits_for_are_noted(project: Project) -> None:
    code, lines = project.say("up", "2", env="START_WORKERS=3\n")
    assert code == 0 and len(lines) == 1
    assert "START_WORKERS=3 (.env, line 1): 2 workers are started, so the experiment waits" in lines[0]


# --- the experiment and its task


def test_a_missing_experiment_is_told_with_the_nearest_and_all_there_are(project: Project) -> None:
    (project.folder / "experiments" / "digits.toml").touch()
    line = project.refusal(env="EXPERIMENT=experiments/minst.toml\n")
    assert (
        "there is no such file (did you mean experiments/mnist.toml?); "
        "in experiments/ are digits.toml mnist.toml" in line
    )


def test_an_experiment_outside_of_its_folder_is_told_where_to_go(project: Project) -> None:
    line = project.refusal(env="EXPERIMENT=/home/me/mine.toml\n")
    assert "put the file there and write EXPERIMENT=experiments/mine.toml" in line


def test_a_missing_task_file_is_told_with_the_folder_that_is_mounted(project: Project) -> None:
    (project.folder / "experiments" / "own.toml").write_text('name = "own"\ntask = "heart:Heart"\n')
    line = project.refusal(env="EXPERIMENT=experiments/own.toml\n")
    assert 'experiments/own.toml: task = "heart:…", but there is no ./tasks/heart.py' in line
    (project.folder / "mine").mkdir()
    (project.folder / "mine" / "heart.py").touch()
    assert project.say(env="EXPERIMENT=experiments/own.toml\nTASKS=./mine\n") == (0, [])


# --- ports


def test_a_port_in_use_is_told_with_one_that_is_not(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = project.refusal(env=f"PORT={port}\n", PROC="/proc", ENGINE=f"24.0.7 {16 * GB + 1} 4")
    assert line.startswith(
        f"make: PORT={port}: 127.0.0.1:{port}, where the aggregator listens, is in use by another"
    )
    assert re.search(r"write PORT=\d+ into \.env$", line)


def test_a_port_of_another_container_is_told_with_its_name(project: Project) -> None:
    assert "is in use by the container web-1: stop that" in project.refusal(PUBLISHES_8080="shop web-1")


def test_the_labs_own_port_is_no_fault_when_it_is_up_already(project: Project) -> None:
    assert project.say(PUBLISHES_8080="roundtable roundtable-aggregator-1") == (0, [])


def test_one_port_cannot_be_two_things(project: Project) -> None:
    assert "GRAFANA_PORT=8080: is the aggregator's PORT too" in project.refusal(env="GRAFANA_PORT=8080\n")


# --- memory


def test_more_workers_than_memory_for_the_smallest_model_are_refused_with_how_many_fit(
    project: Project,
) -> None:
    project.memory(total=16 * GB, available=3 * GB, swap=GB)
    line = project.refusal("up", "10")
    assert line.startswith(
        "make: WORKERS=10: a worker needs some 600m with the smallest model, these 5.9 GB, and 3.0 GB"
    )
    assert "3.0 GB of this machine's 16.0 GB of memory and 1.0 GB of swap are free: 6 workers fit" in line
    assert project.say("up", "6")[0] == 0


def test_workers_that_could_take_more_than_there_is_are_noted_with_what_would_fit(project: Project) -> None:
    project.memory(total=16 * GB, available=6 * GB)
    code, lines = project.say("up", "5")
    assert code == 0 and len(lines) == 1
    assert "these workers may use 10.0 GB in all (WORKER_MEMORY=2g each), and 6.0 GB" in lines[0]
    assert "give WORKER_MEMORY=1228m (in .env) or fewer WORKERS" in lines[0]
    assert project.say("up", "5", env="WORKER_MEMORY=1228m\n") == (0, [])


def test_slow_workers_count_too_and_workers_that_are_there_do_not_count_again(project: Project) -> None:
    project.memory(total=16 * GB, available=3 * GB)
    assert "WORKERS=3 SLOW=3: a worker needs" in project.refusal("up", "3", "3")
    assert project.say("up", "6", WORKERS_UP="a b c d e")[0] == 0


def test_of_an_engine_elsewhere_all_its_memory_counts(project: Project) -> None:
    project.memory(total=64 * GB, available=60 * GB)
    line = project.refusal("up", "20", ENGINE=f"27.1.1 {8 * GB} 8")
    assert "and the engine has 8.0 GB of memory: 13 workers fit" in line


@pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="no bash here")
def test_bash_reads_the_script_as_sh_does(project: Project) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (project.tools / "sh").unlink()
    (project.tools / "sh").symlink_to(bash)
    assert "PORT=abc (.env, line 1): a port is" in project.refusal(env="PORT=abc\n")

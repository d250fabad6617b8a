"""An experiment file is complete and strict; faults are told as path, what was found, what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roundtable.errors import InvalidExperiment
from roundtable.experiment import Experiment, load, parse
from roundtable.faults import faults

ROOT = Path(__file__).parents[2]
LEAST = {"name": "x", "task": "mnist"}

# What is put into the least experiment → the line that must come out, without the file's name.
BAD: list[tuple[dict[str, Any], str]] = [
    # unknown fields
    ({"sed": 1}, "sed: found an unknown field (did you mean seed?); allowed at the top: name, description,"),
    ({"deadline": 3}, "deadline: found an unknown field (did you mean rounds.deadline?); allowed at the top"),
    ({"zzz": {}}, "zzz: found an unknown field; allowed at the top: name,"),
    (
        {"rounds": {"cuont": 3}},
        "rounds.cuont: found an unknown field (did you mean rounds.count?); allowed in [rounds]: count",
    ),
    (
        {"training": {"threads": {"inta": 2}}},
        "training.threads.inta: found an unknown field (did you mean training.threads.intra?); "
        "allowed in [training.threads]: intra, inter",
    ),
    (
        {"partition": {"kind": "iid", "alpha": 0.1}},
        'partition.alpha: found an unknown field (alpha belongs to kind = "dirichlet" or "quantity"); '
        "allowed in [partition]: kind",
    ),
    (
        {"strategy": {"objective": {"name": "plain", "mu": 1}}},
        'strategy.objective.mu: found an unknown field (mu belongs to name = "proximal"); '
        "allowed in [strategy.objective]: name",
    ),
    # choices
    (
        {"partition": {"kind": "dirichlt"}},
        'partition.kind: found "dirichlt"; allowed: "contiguous", "dirichlet", "fixed", "iid", "pinned", '
        '"quantity", "shards" (did you mean "dirichlet"?)',
    ),
    ({"partition": {"alpha": 1}}, 'partition.kind: found nothing; allowed: "contiguous", "dirichlet"'),
    ({"partition": {"kind": ["iid"]}}, 'partition.kind: found ["iid"]; allowed: "contiguous"'),
    ({"partition": "iid"}, 'partition: found "iid"; allowed: a table with kind = "contiguous"'),
    ({"wire": "float64"}, 'wire: found "float64"; allowed: "float32" or "float16"'),
    (
        {"training": {"optimizer": "sdg"}},
        'training.optimizer: found "sdg"; allowed: "sgd" or "adam" (did you mean "sgd"?)',
    ),
    (
        {"strategy": {"aggregation": {"name": "median"}}},
        'strategy.aggregation.name: found "median"; '
        'allowed: "normalized-mean", "uniform-mean", "weighted-mean"',
    ),
    (
        {"strategy": {"server": {"name": "adamw"}}},
        'strategy.server.name: found "adamw"; '
        'allowed: "adagrad", "adam", "sgd", "yogi" (did you mean "adam"?)',
    ),
    (
        {"strategy": {"server": {"tau": 0.1}}},
        "strategy.server.tau: found an unknown field (tau belongs to name = "
        '"adagrad" or "adam" or "yogi"); allowed in [strategy.server]: name, learning_rate, momentum',
    ),
    ({"strategy": {"sampler": {"name": "oort"}}}, 'strategy.sampler.name: found "oort"; allowed: "uniform"'),
    ({"keep": {"durability": "none"}}, 'keep.durability: found "none"; allowed: "process" or "power"'),
    ({"keep": {"updates": "last:0"}}, 'keep.updates: found "last:0"; allowed: "none", "all" or "last:n"'),
    (
        {"training": {"batch_size": "ful"}},
        'training.batch_size: found "ful"; '
        'allowed: a whole number, at least 1 and at most 2147483647, or "full"',
    ),
    # ranges
    ({"seed": -1}, "seed: found -1; allowed: a whole number, at least 0 and at most 4294967295"),
    (
        {"clients": {"count": 0}},
        "clients.count: found 0; allowed: a whole number, at least 1 and at most 100000",
    ),
    ({"clients": {"fraction": 0.0}}, "clients.fraction: found 0.0; allowed: a number, above 0 and at most 1"),
    (
        {"clients": {"holdout": 0.6}},
        "clients.holdout: found 0.6; allowed: a number, at least 0 and at most 0.5",
    ),
    (
        {"training": {"momentum": 1.0}},
        "training.momentum: found 1.0; allowed: a number, at least 0 and below 1",
    ),
    (
        {"training": {"learning_rate": float("nan")}},
        "training.learning_rate: found NaN; allowed: a number, above 0",
    ),
    (
        {"training": {"learning_rate": float("inf")}},
        "training.learning_rate: found Infinity; allowed: a number",
    ),
    ({"rounds": {"deadline": 0}}, "rounds.deadline: found 0; allowed: a number, above 0"),
    ({"stop": {"accuracy": 97}}, "stop.accuracy: found 97; allowed: a number, above 0 and at most 1"),
    (
        {"partition": {"kind": "dirichlet", "alpha": 0}},
        "partition.alpha: found 0; allowed: a number, above 0",
    ),
    ({"partition": {"kind": "fixed"}}, "partition.size: found nothing; allowed: a whole number, at least 1"),
    *(
        ({table: {field: most + 1}}, f"{table}.{field}: found {most + 1}; allowed: a whole number, at least")
        for table, field, most in (
            ("training", "epochs", 10_000),
            ("training", "batch_size", 2**31 - 1),
            ("evaluation", "every", 1_000_000),
            ("stop", "patience", 1_000_000),
            ("keep", "checkpoint_every", 1_000_000),
        )
    ),
    (
        {"training": {"threads": {"intra": 1025}}},
        "training.threads.intra: found 1025; allowed: a whole number, at least 1 and at most 1024",
    ),
    (
        {"partition": {"kind": "shards", "shards_per_client": 2**31}},
        "partition.shards_per_client: found 2147483648; allowed: a whole number, at least 1 and at most",
    ),
    ({"task_options": {"size": 2**63}}, "task_options.size: found a whole number of 64 bits"),
    ({"seed": 16**5000}, "seed: found a number of more than 4,300 digits; allowed: a whole number"),
    # kinds of value
    ({"training": {"epochs": "3"}}, 'training.epochs: found "3"; allowed: a whole number, at least 1'),
    ({"training": {"epochs": 1.5}}, "training.epochs: found 1.5; allowed: a whole number, at least 1"),
    ({"training": {"epochs": True}}, "training.epochs: found true; allowed: a whole number, at least 1"),
    ({"training": {"batch_size": True}}, "training.batch_size: found true; allowed: a whole number"),
    ({"evaluation": {"federated": 1}}, "evaluation.federated: found 1; allowed: true or false"),
    ({"rounds": {"deadline": "2m"}}, 'rounds.deadline: found "2m"; allowed: a number, above 0'),
    ({"training": 5}, "training: found 5; allowed: a table with epochs, batch_size, optimizer,"),
    (
        {"clients": [{"count": 3}]},
        'clients: found [{"count": 3}]; allowed: a table with count, fraction, holdout',
    ),
    (
        {"task_options": {"a": [1]}},
        "task_options.a: found [1]; allowed: a text, or a whole number, or a number",
    ),
    ({"task_options": 3}, "task_options: found 3; allowed: a table"),
    # texts
    ({"name": "My Run"}, 'name: found "My Run"; allowed: 1 to 60 small letters, digits and hyphens'),
    (
        {"task": "../evil"},
        'task: found "../evil"; allowed: a built-in task such as "mnist", or "my_task:MyTask"',
    ),
    ({"description": "x" * 2001}, 'description: found "xxxx'),
    # contradictions
    (
        {"training": {"optimizer": "adam", "momentum": 0.9}},
        "training.momentum: found 0.9, which belongs to sgd; allowed with adam: 0",
    ),
    (
        {"rounds": {"quorum": 0.5}},
        "rounds.quorum: found 0.5, but no deadline after which it applies; allowed: 1, or set",
    ),
    (
        {"rounds": {"oversample": 0.5}},
        "rounds.oversample: found 0.5, but clients.fraction = 1.0 asks every client already; allowed: 0, or",
    ),
    (
        {"evaluation": {"federated": True}},
        "evaluation.federated: found true, but clients keep no examples to evaluate on; allowed: false, or",
    ),
    (
        {"partition": {"kind": "quantity", "alpha": 1}},
        "partition.alpha: found 1.0, but log-normal sizes have a sigma: set partition.sigma, or",
    ),
    (
        {"strategy": {"objective": {"name": "control-variates"}}, "training": {"momentum": 0.5}},
        'strategy.objective.name: found "control-variates", which is defined for plain SGD steps; allowed',
    ),
]


class TestFaults:
    @pytest.mark.parametrize(("change", "line"), BAD, ids=[line.split(";")[0][:60] for _, line in BAD])
    def test_each_is_one_line_of_path_found_and_allowed(self, change: dict[str, Any], line: str) -> None:
        with pytest.raises(InvalidExperiment) as caught:
            parse({**LEAST, **change}, "my.toml")
        assert str(caught.value).startswith(f"my.toml: {line}")
        assert "\n" not in str(caught.value)
        for jargon in ("Value error", "Input should", "permitted", "union", "valid "):
            assert jargon not in str(caught.value)

    def test_what_is_missing_is_told_with_what_is_needed(self) -> None:
        with pytest.raises(InvalidExperiment) as caught:
            parse({}, "my.toml")
        name, task = str(caught.value).splitlines()
        assert name.startswith("my.toml: name: found nothing; allowed: 1 to 60")
        assert task.startswith("my.toml: task: found nothing; allowed: a built-in task")

    def test_every_fault_is_told_at_once(self) -> None:
        body = {**LEAST, "seed": -1, "rounds": {"count": 0, "quourm": 1.0}, "partition": {"kind": "fixed"}}
        with pytest.raises(InvalidExperiment) as caught:
            parse(body)
        paths = [line.split(": ")[1] for line in str(caught.value).splitlines()]
        assert sorted(paths) == ["partition.size", "rounds.count", "rounds.quourm", "seed"]

    @pytest.mark.parametrize("key", ["a\nb", "a\x85b", "a.b", "x" * 10_000, ""])
    def test_an_odd_key_stays_in_one_line(self, key: str) -> None:
        with pytest.raises(InvalidExperiment) as caught:
            parse({**LEAST, "rounds": {key: 1}})
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 300
        assert "allowed in [rounds]: count" in str(caught.value)

    def test_a_long_value_is_cut(self) -> None:
        with pytest.raises(InvalidExperiment) as caught:
            parse({**LEAST, "wire": "x" * 10_000})
        assert len(str(caught.value)) < 300

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        st.sampled_from(sorted(Experiment.model_fields)),
        st.sampled_from(["", "kind", "count", "batch_size", "objective", "server", "threads", "updates"]),
    )
    def test_whatever_is_written_anywhere_is_taken_or_refused(
        self, value: Any, section: str, field: str
    ) -> None:
        try:
            parse({**LEAST, section: {field: value} if field else value})
        except InvalidExperiment as error:
            for line in str(error).splitlines():
                assert line.startswith("experiment: ")
                assert "found" in line

    def test_any_model_can_have_its_faults_told_and_without_one_they_are_told_less(self) -> None:
        from pydantic import BaseModel, Field, ValidationError

        class Port(BaseModel):
            port: int = Field(8080, le=65535)

        with pytest.raises(ValidationError) as caught:
            Port.model_validate({"port": 99999})
        assert faults(caught.value, Port) == ["port: found 99999; allowed: a whole number, at most 65535"]
        assert faults(caught.value) == ["port: found 99999; allowed: less than or equal to 65535"]


class TestFiles:
    def write(self, tmp_path: Path, text: str | bytes) -> Path:
        path = tmp_path / "e.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_a_file_is_read(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'name = "x"\ntask = "mnist"\n[rounds]\ncount = 3\n')
        assert load(path) == Experiment.model_validate({**LEAST, "rounds": {"count": 3}})

    def test_the_mark_that_some_editors_put_first_is_no_fault(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, b'\xef\xbb\xbfname = "x"\ntask = "mnist"\n')
        assert load(path).name == "x"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name = ", "is not TOML"),
            ('name = "x"\nname = "y"', "is not TOML"),
            ("[rounds]\n[rounds]", "is not TOML"),
            (b'name = "\xff"', "is not UTF-8"),
            ("a = " + "[" * 100_000, "is not TOML"),
            ("seed = " + "9" * 5000, "has a number of more than 4,300 digits"),
            ("", "name: found nothing"),
            ('name = "x"\ntask = "mnist"\nseed = 2025-01-01', "seed: found"),
        ],
        ids=["cut", "twice", "table twice", "latin-1", "deep", "long", "empty", "a date"],
    )
    def test_what_cannot_be_read_is_told_with_the_files_name(
        self, tmp_path: Path, text: str | bytes, words: str
    ) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(InvalidExperiment) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert words in str(caught.value)

    def test_a_file_that_is_not_there_is_told_with_a_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidExperiment, match=r"none.toml: cannot be read .*see experiments/"):
            load(tmp_path / "none.toml")
        with pytest.raises(InvalidExperiment, match="cannot be read"):
            load(tmp_path)

    @pytest.mark.parametrize(
        "path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda path: path.stem
    )
    def test_every_experiment_that_ships_loads_and_is_named_after_its_file(self, path: Path) -> None:
        assert load(path).name == path.stem
        assert path.read_text().startswith("# ")

    def test_there_are_experiments_that_ship(self) -> None:
        names = {path.stem for path in (ROOT / "experiments").glob("*.toml")}
        assert names >= {"demo", "digits", "fedsgd", "noniid-2class", "dirichlet", "fixed-840"}


class TestExperiment:
    @pytest.mark.parametrize(
        ("count", "fraction", "cohort"),
        [(10, 1.0, 10), (100, 0.1, 10), (100, 0.001, 1), (1, 0.01, 1), (10, 0.25, 2), (3, 0.5, 2)],
    )
    def test_the_cohort_is_the_papers_fraction(self, count: int, fraction: float, cohort: int) -> None:
        experiment = parse({**LEAST, "clients": {"count": count, "fraction": fraction}})
        assert experiment.cohort_size == cohort

    @pytest.mark.parametrize(
        "path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda path: path.stem
    )
    def test_survives_json_with_its_digest(self, path: Path) -> None:
        experiment = load(path)
        again = Experiment.model_validate_json(experiment.model_dump_json())
        assert again == experiment == parse(json.loads(experiment.model_dump_json()))
        assert again.digest == experiment.digest

    def test_the_digest_is_of_what_is_run_and_not_of_its_name(self) -> None:
        one = parse(LEAST)
        assert parse({**LEAST, "name": "y", "description": "z"}).digest == one.digest
        others = [
            {"seed": 2},
            {"task": "digits"},
            {"rounds": {"count": 21}},
            {"task_options": {"model": "cnn"}},
        ]
        assert len({one.digest, *(parse({**LEAST, **change}).digest for change in others)}) == 5

    def test_writing_out_a_default_or_a_whole_number_changes_nothing(self) -> None:
        plain = parse({**LEAST, "strategy": {"server": {"learning_rate": 1.0}}})
        assert parse(LEAST).digest == plain.digest
        assert parse({**LEAST, "strategy": {"server": {"learning_rate": 1}}}).digest == plain.digest

    def test_is_a_value(self) -> None:
        assert parse(LEAST) == parse(LEAST)
        with pytest.raises(ValueError, match="frozen"):
            parse(LEAST).seed = 2  # type: ignore[misc]

"""docs/experiments.md tells every field as it is, and its recipes are experiments."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from roundtable.errors import InvalidExperiment
from roundtable.experiment import Experiment, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
SCHEMA = Experiment.model_json_schema()
PARTITIONS = SCHEMA["properties"]["partition"]["discriminator"]["mapping"]
PARTS = sorted(
    {
        ref.rpartition("/")[2]
        for part in SCHEMA["$defs"]["Strategy"]["properties"].values()
        for ref in part.get("discriminator", {}).get("mapping", {"": part.get("$ref", "")}).values()
    }
)
ABSENT = object()


def fields(node: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(path, default) of every field outside the parts that are chosen by kind or name."""
    for name, child in node["properties"].items():
        target = SCHEMA["$defs"][child["$ref"].rpartition("/")[2]] if "$ref" in child else child
        if before == "strategy." or "discriminator" in child:
            continue
        if "properties" in target:
            yield from fields(target, f"{before}{name}.")
        else:
            yield before + name, child.get("default", ABSENT)


def told() -> dict[str, Any]:
    """(path, default) as the tables with a default column tell them."""
    result: dict[str, Any] = {}
    for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        table = re.match(r"`\[(\w+)\]`:", section)
        prefix = f"{table[1]}." if table else ""
        if "| field | default |" not in section:
            continue
        for row in re.findall(r"^\| (`.*?) \| (.*?) \|", section, flags=re.MULTILINE):
            names, defaults = row[0].split(", "), row[1].split(", ")
            for name, default in zip(names, defaults, strict=True):
                path = name.strip("`")
                full = prefix + path if path.split(".")[0] not in ("evaluation", "stop") else path
                words = {"none": None, "*needed*": ABSENT}
                value = (
                    words[default] if default in words else tomllib.loads(f"x = {default.strip('`')}")["x"]
                )
                result[full] = value
    return result


def test_every_field_is_told_with_its_default() -> None:
    assert told() == dict(fields(SCHEMA))


@pytest.mark.parametrize("kind", PARTITIONS)
def test_every_partition_is_told_with_its_fields(kind: str) -> None:
    properties = SCHEMA["$defs"][PARTITIONS[kind].rpartition("/")[2]]["properties"]
    row = next(line for line in TEXT.splitlines() if line.startswith(f'| `"{kind}"`'))
    for name, child in properties.items():
        if name != "kind":
            assert f"`{name}` (" in row
            default = child.get("default", child.get("enum"))
            assert default is None or str(default).lower() in row


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_a_strategy_is_told_with_its_fields(part: str) -> None:
    properties = SCHEMA["$defs"][part]["properties"]
    section = TEXT[TEXT.index("### `[strategy]`") : TEXT.index("### `[rounds]`")]
    row = next(line for line in section.splitlines() if f'| `"{properties["name"]["const"]}"`' in line)
    for name, child in properties.items():
        if name != "name":
            assert f"`{name}` ({child['default']}" in row


RECIPES = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.splitlines()[0] for recipe in RECIPES])
def test_every_recipe_is_an_experiment(recipe: str) -> None:
    parse({"name": "x", "task": "mnist", **tomllib.loads(recipe)})


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 6


def test_the_faults_that_are_shown_are_those_that_are_told() -> None:
    body = {
        "name": "x",
        "task": "mnist",
        "rounds": {"cuont": 3},
        "training": {"batch_size": "ful"},
        "partition": {"kind": "iid", "alpha": 0.1},
    }
    with pytest.raises(InvalidExperiment) as caught:
        parse(body, "my.toml")
    for line in str(caught.value).splitlines():
        assert line.split(", deadline")[0] in TEXT

"""Sums become metrics: what evaluations add up to, over batches, shards and clients alike.

A task's metrics are (batch → named sums). This is the other half, (sums → values), the same for every task,
since the aggregator runs none of their code. Three kinds of sums, told apart by name and form:

- a number `x` is a sum over examples: its value is x / num_examples ("loss", "accuracy", …);
- a list named "confusion" is a classes × classes matrix, row-major, rows the truth, columns the prediction.
  It counts whatever was classified (examples, pixels) and gives "mean_iou", the classes' mean of
  |true ∩ predicted| / |true ∪ predicted| (classes that occur in neither are left out), "iou_0", "iou_1", …,
  and, where no sum of that name says it, "accuracy", the share of the diagonal;
- any other list [numerators…, denominator] gives one value for each numerator, "x_0", "x_1", …, or just "x"
  where there is one: a ratio whose denominator is not the number of examples (words, pixels, positives).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from roundtable.errors import InvalidInput
from roundtable.messages import Evaluated

CONFUSION = "confusion"


def added(parts: Iterable[Evaluated]) -> Evaluated:
    """The sums of `parts`, added in float64 in the order given, which therefore decides the last bits.

    Parts without examples count for nothing. Raises InvalidInput where there are none or they do not match.
    """
    total: dict[str, list[float]] = {}
    scalars: dict[str, bool] = {}
    examples, seconds = 0, 0.0
    for part in parts:
        if part.num_examples == 0:
            continue
        found = {name: not isinstance(value, list) for name, value in part.sums.items()}
        if scalars and found != scalars:
            raise InvalidInput(f"an evaluation reports {_shown(found)} where others report {_shown(scalars)}")
        scalars = found
        for name, value in part.sums.items():
            values = value if isinstance(value, list) else [value]
            before = total.setdefault(name, [0.0] * len(values))
            if len(before) != len(values):
                raise InvalidInput(f"evaluations report {len(before)} and {len(values)} sums for {name!r}")
            total[name] = [one + other for one, other in zip(before, values, strict=True)]
        examples += part.num_examples
        seconds += part.seconds
    if not examples:
        raise InvalidInput(
            "the evaluations hold no examples: give the task test examples, or the clients a holdout"
        )
    sums: dict[str, float | list[float]] = {
        name: values[0] if scalars[name] else values for name, values in total.items()
    }
    return Evaluated(num_examples=examples, sums=sums, seconds=seconds)


def values(evaluated: Evaluated) -> dict[str, float]:
    """The metrics of these sums, by name. What is not finite is left out, a ratio to 0 included.

    Raises InvalidInput for a confusion matrix that is not square.
    """
    found: dict[str, float] = {}
    for name, total in evaluated.sums.items():
        if not isinstance(total, list):
            found[name] = total / evaluated.num_examples
        elif name == CONFUSION:
            found = {**_confusion(total), **found}
        else:
            found |= _ratios(name, total)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def ratio_names(name: str, length: int) -> list[str]:
    """The values that a list of so many sums gives, `name` not being "confusion"."""
    return [name] if length == 2 else [f"{name}_{at}" for at in range(length - 1)]


def _ratios(name: str, total: Sequence[float]) -> Mapping[str, float]:
    if len(total) < 2 or total[-1] == 0:
        return {}
    names = ratio_names(name, len(total))
    return {name: numerator / total[-1] for name, numerator in zip(names, total[:-1], strict=True)}


def _confusion(total: Sequence[float]) -> dict[str, float]:
    classes = math.isqrt(len(total))
    if classes == 0 or classes * classes != len(total):
        raise InvalidInput(
            f"{CONFUSION!r} has {len(total)} numbers: a flattened classes × classes matrix is needed"
        )
    matrix = np.array(total, np.float64).reshape(classes, classes)
    hits, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    occurs = union > 0
    if not occurs.any():
        return {}
    found = {f"iou_{at}": hits[at] / union[at] for at in range(classes) if occurs[at]}
    found["mean_iou"] = float(np.mean(hits[occurs] / union[occurs]))
    found["accuracy"] = hits.sum() / matrix.sum()
    return found


def _shown(scalars: Mapping[str, bool]) -> str:
    return ", ".join(name if scalar else f"{name}[]" for name, scalar in sorted(scalars.items())) or "nothing"

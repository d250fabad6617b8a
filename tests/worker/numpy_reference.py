"""Local training in plain numpy, in float64: what the traced graph must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Arrays = list[np.ndarray[Any, Any]]
Step = Callable[[int, int, Any, Any], Any]  # (step from 1, array's position, weight, gradient) → weight


def forward(weights: Arrays, x: Any) -> tuple[Any, Arrays]:
    """A ReLU network with kernels and biases in turn: logits [b, c], and each layer's input."""
    inputs = []
    for position in range(0, len(weights), 2):
        inputs.append(x)
        x = x @ weights[position] + weights[position + 1]
        if position + 2 < len(weights):
            x = np.maximum(x, 0)
    return x, inputs


def loss_and_gradients(weights: Arrays, x: Any, y: Any) -> tuple[float, float, Arrays]:
    """(mean cross-entropy, share classified right, gradients of the mean)."""
    logits, inputs = forward(weights, x)
    shifted = logits - logits.max(1, keepdims=True)
    chances = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    rows = np.arange(len(y))
    loss = float(-np.log(chances[rows, y]).mean())
    back = chances.copy()
    back[rows, y] -= 1
    back /= len(y)
    gradients: Arrays = []
    for layer in range(len(inputs) - 1, -1, -1):
        gradients[:0] = [inputs[layer].T @ back, back.sum(0)]
        back = (back @ weights[2 * layer].T) * (inputs[layer] > 0)
    return loss, float((logits.argmax(1) == y).mean()), gradients


def train(
    weights: Sequence[Any], x: Any, y: Any, order: Any, batch_size: int, step: Step
) -> tuple[Arrays, int, float, float]:
    """x [n, features], y [n], order [epochs, n] → (weights, steps, loss and accuracy over the last epoch)."""
    current = [np.asarray(weight, np.float64) for weight in weights]
    count, loss, accuracy = 0, 0.0, 0.0
    for epoch in order:
        loss = accuracy = 0.0
        for at in range(0, len(epoch), batch_size):
            rows = epoch[at : at + batch_size]
            batch_loss, batch_accuracy, gradients = loss_and_gradients(current, x[rows], y[rows])
            count += 1
            current = [
                step(count, position, weight, gradient)
                for position, (weight, gradient) in enumerate(zip(current, gradients, strict=True))
            ]
            loss += batch_loss * len(rows) / len(epoch)
            accuracy += batch_accuracy * len(rows) / len(epoch)
    return current, count, loss, accuracy

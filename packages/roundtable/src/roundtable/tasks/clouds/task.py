"""The task itself: options, data, model, loss and metrics put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from roundtable.errors import InvalidData, InvalidTask
from roundtable.tasks.classification import confusion
from roundtable.tasks.clouds import overlap, scenes, tiles, unet
from roundtable.tasks.task import Data, Task, check_pair
from roundtable.types import Array


class Clouds(Task):
    classes = tiles.CLASSES

    def __init__(
        self,
        data: Literal["synthetic", "tiles"] = "synthetic",
        bands: Literal["rgb", "rgbn"] = "rgb",
        tile: int = 64,
        folder: str = "clouds",
        train_tiles: int = 480,
        test_tiles: int = 160,
        scene_seed: int = 1,
        model: Literal["small", "full"] = "small",
        filters: int | None = None,
        depth: int | None = None,
        dilation: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
        loss: Literal["dice", "dice+cross-entropy"] = "dice+cross-entropy",
    ) -> None:
        """docs/tasks.md explains each. Raises InvalidTask for sizes that do not fit one another."""
        preset = unet.PRESETS[model]
        self.shape = unet.Shape(
            filters=preset.filters if filters is None else filters,
            depth=preset.depth if depth is None else depth,
            dilation=preset.dilation if dilation is None else dilation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        for name, value, least, most in (
            ("filters", self.shape.filters, 1, 512),
            ("depth", self.shape.depth, 1, 6),
            ("dilation", self.shape.dilation, 1, 8),
            ("train_tiles", train_tiles, 1, 1_000_000),
            ("test_tiles", test_tiles, 1, 1_000_000),
            ("scene_seed", scene_seed, 0, 2**32 - 1),
        ):
            if not least <= value <= most:
                raise InvalidTask(f"task_options.{name}: found {value}; allowed: {least} … {most}")
        if not 0 <= dropout < 1:
            raise InvalidTask(f"task_options.dropout: found {dropout}; allowed: 0 up to, not including, 1")
        step = 2**self.shape.depth
        if tile < step or tile % step or tile > 4096:
            raise InvalidTask(
                f"task_options.tile: found {tile}; "
                f"allowed with depth {self.shape.depth}: multiples of {step} up to 4096"
            )
        self.data, self.bands, self.tile, self.folder = data, bands, tile, folder
        self.train_tiles, self.test_tiles, self.scene_seed = train_tiles, test_tiles, scene_seed
        self.loss_name = loss

    @property
    def channels(self) -> int:
        return len(self.bands)

    def describe(self) -> str:
        where = f"{self.tile}×{self.tile}, {'RGB' if self.bands == 'rgb' else 'RGB and near infrared'}"
        if self.data == "tiles":
            drawn = "SYNTHETIC " * self._says_synthetic
            return f"{drawn}tiles of {where} from the folder {self.folder}"
        return (
            f"SYNTHETIC scenes, drawn from seed {self.scene_seed} and not seen by any satellite: "
            f"{self.train_tiles} + {self.test_tiles} tiles of {where}"
        )

    def model(self) -> Any:
        """uint8 tiles [b, tile, tile, bands] → logits [b, tile, tile, 4]."""
        return unet.model(self.tile, self.channels, len(self.classes), self.shape)

    def loss(self) -> Any:
        return overlap.dice if self.loss_name == "dice" else overlap.dice_and_cross_entropy

    def metrics(self, y: Any, predictions: Any) -> Mapping[str, Any]:
        return {"confusion": confusion(y, predictions, len(self.classes))}

    def load(self, data_dir: Path) -> Data:
        """uint8 tiles [n, tile, tile, bands] and uint8 masks [n, tile, tile] of 0 … 3."""
        if self.data == "synthetic":
            x_train, y_train = self._drawn(self.train_tiles, "train")
            x_test, y_test = self._drawn(self.test_tiles, "test")
        else:
            x_train, y_train = self._read(self._part(data_dir, "train"))
            x_test, y_test = self._read(self._part(data_dir, "test"))
        return Data(x_train, y_train, x_test, y_test)

    def labels(self, y: Array) -> Array:
        """What a tile shows most of: masks [n, h, w] → [n]."""
        return tiles.tile_labels(y)

    def train_labels(self, data_dir: Path) -> Array:
        if self.data == "synthetic":
            return self.labels(self._drawn(self.train_tiles, "train")[1])
        return self.labels(tiles.read_masks(self._part(data_dir, "train"), self.tile))

    def load_node(self, folder: Path) -> tuple[Array, Array]:
        """A node's own tiles: images/ and masks/ in its folder, or a `data.npz` of them."""
        if not (folder / "images").is_dir() and (folder / "data.npz").exists():
            x, y = super().load_node(folder)
            check_pair(x, y)
            if y.size and y.max() >= len(self.classes):
                raise InvalidData(f"data.npz: a mask has the value {y.max()}; {tiles.VALUES}")
            return x, y
        return self._read(folder)

    def pictures(self, x: Array, y: Array, predictions: Array) -> Mapping[str, Array]:
        """The tiles in natural colours, their masks and the classes taken to be the likeliest."""
        return {"image": x[..., :3], "mask": y, "prediction": predictions.argmax(axis=-1).astype(np.uint8)}

    def _drawn(self, count: int, part: scenes.Part) -> tuple[Array, Array]:
        return scenes.tiles(count, self.tile, self.channels, self.scene_seed, part)

    @property
    def _says_synthetic(self) -> bool:
        return "synthetic" in self.folder.lower()

    def _part(self, data_dir: Path, part: scenes.Part) -> Path:
        """Where its tiles are. Raises InvalidData for drawn ones in a folder that does not say so:
        `describe`, which reports quote, knows no more of them than its name."""
        folder = data_dir / self.folder / part
        drawn = next((folder / "masks").glob(f"{tiles.DRAWN}*"), None)
        if drawn is not None and not self._says_synthetic:
            raise InvalidData(
                f"{drawn}: was drawn, and no satellite saw it: give its folder a name with synthetic in it, "
                "and set task_options.folder to that"
            )
        return folder

    def _read(self, folder: Path) -> tuple[Array, Array]:
        return tiles.read(folder, self.tile, self.channels)

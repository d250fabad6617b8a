"""Tiles in a folder, as docs/tasks.md lays it out, and larger scenes cut into them.

images/NAME.png     RGB, or with near infrared as a fourth band; PNG or TIFF, 8 bits a band
masks/NAME.png      one band: 0 background, 1 thick cloud, 2 thin cloud, 3 cloud shadow
nir/NAME.png        near infrared, where it is wanted and no fourth band
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from roundtable.errors import InvalidData
from roundtable.types import Array

CLASSES: Final = ("background", "thick cloud", "thin cloud", "cloud shadow")
ENDINGS: Final = (".png", ".tif", ".tiff")
VALUES: Final = "known are " + ", ".join(f"{value} {name}" for value, name in enumerate(CLASSES))
CLOUDED: Final = 0.01  # of a tile's pixels that are not background make it a tile of clouds
DRAWN: Final = "synthetic_"  # what the names of such tiles begin with
REMEDY: Final = "see docs/tasks.md, clouds"
_COLOURS: Final = ("RGB", "RGBA", "RGBX")
_ONE_BAND: Final = ("L", "P")  # grey levels, or a palette whose numbers are meant


def read(folder: Path, size: int, bands: int) -> tuple[Array, Array]:
    """All tiles of a folder, by name: uint8 [n, size, size, bands] and masks [n, size, size].

    Raises InvalidData, naming the file: a picture without its mask or the other way round, one of another
    size or kind, a mask with a value that no class has, nothing at all.
    """
    pairs = list(_pairs(folder))
    x = np.empty((len(pairs), size, size, bands), np.uint8)
    y = np.empty((len(pairs), size, size), np.uint8)
    nir = _near_infrared(folder) if bands > 3 else {}
    for at, (image, mask) in enumerate(pairs):
        x[at] = _sized(_colours(image, bands, nir), image, size)
        y[at] = _sized(_classes(mask), mask, size)
    return x, y


def read_masks(folder: Path, size: int | None = None) -> Array:
    """The masks of `read`, without the pictures; without `size`, of whatever size the first one has."""
    masks = []
    for _, path in _pairs(folder):
        mask = _classes(path)
        size = mask.shape[0] if size is None else size
        masks.append(_sized(mask, path, size))
    return np.stack(masks)


def tile_labels(masks: Array) -> Array:
    """What each tile shows most of, clouds and shadows first: [n, h, w] → int64 [n].

    The class with the most pixels among thick cloud, thin cloud and shadow (the first, where two have as
    many), or background where these cover less than a hundredth of the tile.
    """
    counts = np.stack([(masks == label).sum(axis=(1, 2)) for label in range(1, len(CLASSES))], axis=1)
    clouded = counts.sum(axis=1) >= CLOUDED * masks[0].size
    return np.where(clouded, counts.argmax(axis=1) + 1, 0).astype(np.int64)


def cut(scenes: Path, target: Path, size: int, stride: int) -> int:
    """Cut the scenes of a folder, laid out as tiles are, into tiles; how many. Raises InvalidData.

    Tiles lie `stride` pixels apart, and overlap where that is less than their size: cut scenes for training
    and for the test from folders of their own, or the test set shows what was trained on.
    """
    if size < 1 or stride < 1:
        raise InvalidData(f"--size {size} --stride {stride}: both are pixels, at least 1")
    number, nir = 0, _near_infrared(scenes)
    for image, mask in _pairs(scenes):
        picture, classes = _colours(image, _bands(image, nir), nir), _classes(mask)
        if picture.shape[:2] != classes.shape:
            raise InvalidData(
                f"{mask}: is {_shown(classes)}, but {image.name} is {_shown(picture)}: they must be alike"
            )
        if min(classes.shape) < size:
            raise InvalidData(f"{image}: is {_shown(picture)}, too small for a tile of {size}×{size}")
        for top in range(0, classes.shape[0] - size + 1, stride):
            for left in range(0, classes.shape[1] - size + 1, stride):
                part = np.s_[top : top + size, left : left + size]
                write(target, f"{image.stem}_y{top:05d}_x{left:05d}", picture[part], classes[part])
                number += 1
    return number


def write(folder: Path, name: str, image: Array, mask: Array) -> None:
    """One tile: uint8 [h, w, 3 or 4] and [h, w]. Near infrared goes to a file of its own."""
    from PIL import Image

    layers = {"images": image[..., :3], "masks": mask} | (
        {"nir": image[..., 3]} if image.shape[-1] > 3 else {}
    )
    for kind, pixels in layers.items():
        path = folder / kind / f"{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(path)
        except OSError as error:
            raise InvalidData(f"{path}: cannot be written ({error.strerror})") from None


def _pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(image, mask), by name. Raises InvalidData where one lacks the other."""
    images, masks = _files(folder / "images"), _files(folder / "masks")
    for name in sorted(images.keys() ^ masks.keys()):
        here, there = (images, "masks") if name in images else (masks, "images")
        raise InvalidData(f"{here[name]}: there is no {name} in {folder / there}; {REMEDY}")
    if not images:
        raise InvalidData(f"{folder / 'images'}: holds no {', '.join(ENDINGS)} file; {REMEDY}")
    return ((images[name], masks[name]) for name in sorted(images))


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InvalidData(f"{folder}: there is no such folder; {REMEDY}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and not path.name.startswith("."):
            if path.stem in found:
                raise InvalidData(f"{path}: {found[path.stem].name} has the same name; keep one of them")
            found[path.stem] = path
    return found


def _pixels(path: Path, modes: tuple[str, ...], wanted: str) -> Array:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InvalidData(f"{path}: Pillow, which reads it, is not installed here") from None
    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidData(f"{path}: cannot be read as a picture ({said}); {REMEDY}") from None
    if mode not in modes:
        raise InvalidData(f"{path}: holds pixels of kind {mode}; {wanted} is needed; {REMEDY}")
    return pixels


def _bands(path: Path, nir: Mapping[str, Path]) -> int:
    """How many bands a scene has, with its near infrared file."""
    bands = _pixels(path, _COLOURS, "8-bit RGB, or with a fourth band").shape[-1]
    return 4 if bands == 4 or path.stem in nir else 3


def _near_infrared(folder: Path) -> dict[str, Path]:
    beside = folder / "nir"
    return _files(beside) if beside.is_dir() else {}


def _colours(path: Path, bands: int, nir: Mapping[str, Path]) -> Array:
    """[h, w, bands]; a file of its own for near infrared goes before a fourth band."""
    pixels = _pixels(path, _COLOURS, "8-bit RGB, or with a fourth band")
    if bands == 3:
        return pixels[..., :3]
    beside = nir.get(path.stem)
    if beside is not None:
        extra = _pixels(beside, ("L",), "one 8-bit band")
        if extra.shape != pixels.shape[:2]:
            raise InvalidData(f"{beside}: is {_shown(extra)}, but {path.name} is {_shown(pixels)}")
        return np.concatenate([pixels[..., :3], extra[..., None]], axis=-1)
    if pixels.shape[-1] == 4:
        return pixels
    raise InvalidData(
        f"{path}: has three bands, and there is no {path.stem} in {path.parent.parent / 'nir'}: add near "
        f'infrared, or set task_options.bands = "rgb"; {REMEDY}'
    )


def _classes(path: Path) -> Array:
    """[h, w] of 0 … 3."""
    mask = _pixels(path, _ONE_BAND, "one 8-bit band of class numbers")
    if mask.max() >= len(CLASSES):
        raise InvalidData(f"{path}: has the value {mask.max()}, which no class has; {VALUES}; {REMEDY}")
    return mask


def _sized(pixels: Array, path: Path, size: int) -> Array:
    if pixels.shape[:2] != (size, size):
        raise InvalidData(
            f"{path}: is {_shown(pixels)}, but task_options.tile = {size}: "
            f"cut it into tiles of {size}×{size}, or set task_options.tile to the tiles' size"
        )
    return pixels


def _shown(pixels: Array) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"

"""`python -m roundtable.tasks.clouds cut SCENES TILES` and `… draw TILES`: folders of tiles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from roundtable.errors import InvalidData, RoundtableError
from roundtable.tasks.clouds import scenes, tiles


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m roundtable.tasks.clouds", description="Tiles of clouds.")
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut", help="cut larger scenes (images/, masks/, nir/) into tiles")
    cutting.add_argument("scenes", type=Path, metavar="SCENES", help="a folder with images/ and masks/")
    cutting.add_argument("tiles", type=Path, metavar="TILES", help="where the tiles go")
    cutting.add_argument("--size", type=int, default=400, help="pixels (400)")
    cutting.add_argument("--stride", type=int, default=100, help="pixels from one tile to the next (100)")
    drawing = commands.add_parser("draw", help="write synthetic tiles: no satellite saw them")
    drawing.add_argument("tiles", type=Path, metavar="TILES", help="where the tiles go")
    drawing.add_argument("--tiles", type=int, default=64, dest="count", help="how many (64)")
    drawing.add_argument("--size", type=int, default=64, help="pixels (64)")
    drawing.add_argument("--seed", type=int, default=1, help="of the scenes (1)")
    drawing.add_argument("--part", choices=("train", "test"), default="train", help="which scenes (train)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "cut":
            number = tiles.cut(options.scenes, options.tiles, options.size, options.stride)
        else:
            number = draw(options.tiles, options.count, options.size, options.seed, options.part)
    except RoundtableError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{number} {'synthetic ' if options.command == 'draw' else ''}tiles in {options.tiles}")
    return 0


def draw(folder: Path, count: int, size: int, seed: int, part: scenes.Part) -> int:
    """Write synthetic tiles, named as such, with near infrared. Raises InvalidData."""
    for name, value, least, most in (
        ("tiles", count, 1, 1_000_000),
        ("size", size, 1, 4096),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not least <= value <= most:
            raise InvalidData(f"--{name} {value}: allowed: {least} … {most}")
    images, masks = scenes.tiles(count, size, 4, seed, part)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        tiles.write(folder, f"{tiles.DRAWN}{seed}_{part}_{number:05d}", image, mask)
    return count


if __name__ == "__main__":
    sys.exit(main())

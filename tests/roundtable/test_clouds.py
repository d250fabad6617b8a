"""Task clouds without TensorFlow: synthetic scenes, folders of tiles, labels, options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from roundtable.errors import InvalidData, InvalidTask
from roundtable.partitioners import Dirichlet
from roundtable.tasks import find
from roundtable.tasks.clouds import Clouds, scenes, tiles
from roundtable.tasks.clouds.__main__ import main
from roundtable.tasks.pinned import count_labels, load_node
from roundtable.tasks.task import array_hash

SMALL = {"tile": 16, "train_tiles": 48, "test_tiles": 16}


def folder_of(path: Path, count: int = 4, size: int = 16, seed: int = 1) -> Path:
    """Tiles as the command writes them."""
    assert main(["draw", str(path), "--tiles", str(count), "--size", str(size), "--seed", str(seed)]) == 0
    return path


def first(folder: Path, kind: str) -> Path:
    return sorted((folder / kind).iterdir())[0]


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(InvalidData) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestScenes:
    def test_are_the_same_bytes_on_every_machine(self) -> None:
        """The hash is of this file: whoever sees another may not train with us, so it must never change by
        itself."""
        x, y = scenes.tiles(32, 32, 4, 1, "train")
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((32, 32, 32, 4), np.uint8, (32, 32, 32), np.uint8)
        assert array_hash(x=x, y=y)[:16] == "d8853442f801540c"

    def test_more_tiles_change_none_of_the_first(self) -> None:
        few, many = (scenes.tiles(count, 16, 3, 5, "train") for count in (20, 50))
        assert (few[0] == many[0][:20]).all() and (few[1] == many[1][:20]).all()

    def test_of_another_seed_or_part_are_others(self) -> None:
        images = [
            scenes.tiles(4, 16, 3, *words)[0].tobytes() for words in ((1, "train"), (2, "train"), (1, "test"))
        ]
        assert len(set(images)) == 3

    def test_show_every_class_in_fair_amounts(self) -> None:
        _, y = scenes.tiles(320, 32, 3, 1, "train")
        shares = np.bincount(y.ravel(), minlength=4) / y.size
        assert len(shares) == 4 and shares.min() > 0.03 and shares[0] > 0.4

    def test_clouds_are_bright_and_shadows_darker_than_the_same_ground_in_the_sun(self) -> None:
        x, y = scenes.tiles(320, 32, 4, 1, "train")
        bright = [x[y == label].mean() for label in range(4)]
        assert bright[1] > bright[2] > bright[0] > bright[3]

    def test_a_shadow_lies_beside_a_cloud_of_its_own_shape(self) -> None:
        for number in range(6):
            _, mask = scenes.scene(128, 32, 3, "train", number)
            if not (mask == 3).any():
                continue
            cloud = (mask == 1) | (mask == 2)
            overlap = max(
                (np.roll(cloud, (dy, dx), (0, 1)) & (mask == 3)).sum() / (mask == 3).sum()
                for dy in range(-8, 9)
                for dx in range(-8, 9)
            )
            assert overlap > 0.8


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"tile": 60}, "task_options.tile: found 60; allowed with depth 3: multiples of 8 up to 4096"),
            ({"tile": 0}, "task_options.tile: found 0"),
            ({"depth": 9}, "task_options.depth: found 9; allowed: 1 … 6"),
            ({"filters": 0}, "task_options.filters: found 0"),
            ({"dropout": 1.0}, "task_options.dropout: found 1.0"),
            ({"data": "real"}, "task_options.data: found 'real'; allowed: 'synthetic' or 'tiles'"),
            ({"loss": "focal"}, "task_options.loss"),
            ({"size": 3}, "found an unknown field; allowed for task clouds: data, bands, tile, folder"),
        ],
    )
    def test_that_do_not_fit_are_refused_by_name(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidTask) as caught:
            find("clouds", options, Path())
        assert said in str(caught.value)

    def test_synthetic_data_are_called_so(self) -> None:
        assert "SYNTHETIC" in Clouds().describe() and "480 + 160 tiles of 64×64" in Clouds().describe()
        assert "SYNTHETIC" not in Clouds(data="tiles").describe()

    def test_the_source_is_all_files_of_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = find("clouds", {}, Path()).hash
        real = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + b"#" * (path.name == "unet.py"))
        assert find("clouds", {}, Path()).hash != before


class TestLabels:
    def test_are_what_a_tile_shows_most_of_clouds_first(self) -> None:
        masks = np.zeros((5, 10, 10), np.uint8)
        masks[1].flat[0] = 3  # one pixel of a hundred: a shadow
        masks[2].flat[:4] = (1, 2, 2, 3)
        masks[3].flat[:4] = (1, 1, 2, 2)  # as many: the first
        masks[4] = 1
        assert Clouds().labels(masks).tolist() == [0, 3, 2, 1, 1]
        assert Clouds().labels(np.pad(masks, ((0, 0), (0, 30), (0, 30)))).tolist() == [0, 0, 0, 0, 1]

    def test_are_enough_for_a_skewed_partition(self) -> None:
        labels = Clouds().train_labels(Path())
        counts = np.bincount(labels, minlength=4)
        assert counts.min() >= 20
        parts = Dirichlet(alpha=0.1, min_size=10).split(labels, 4, 1)
        shares = [np.bincount(labels[part], minlength=4).max() / len(part) for part in parts]
        assert max(shares) > 0.7

    def test_need_no_tensorflow_and_no_pictures(self, tmp_path: Path) -> None:
        folder_of(tmp_path / "synthetic" / "train")
        for path in (tmp_path / "synthetic" / "train" / "images").iterdir():
            path.write_bytes(b"never read")
        command = (
            "import sys; from pathlib import Path; from roundtable.tasks import find\n"
            "task = find('clouds', {'data': 'tiles', 'tile': 16, 'folder': 'synthetic'}, Path()).task\n"
            "print(len(task.train_labels(Path(sys.argv[1]))), 'tensorflow' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", command, tmp_path], capture_output=True, text=True)
        assert done.stdout == "4 False\n"


class TestFolders:
    def test_give_back_what_was_written_in_the_order_of_names(self, tmp_path: Path) -> None:
        x, y = scenes.tiles(4, 16, 4, 1, "train")
        folder = folder_of(tmp_path / "tiles")
        for bands in (3, 4):
            found, masks = tiles.read(folder, 16, bands)
            assert (found == x[..., :bands]).all() and (masks == y).all()

    def test_near_infrared_may_be_a_fourth_band_and_masks_a_palette(self, tmp_path: Path) -> None:
        x, y = scenes.tiles(1, 16, 4, 1, "train")
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir()
        Image.fromarray(x[0]).save(tmp_path / "images" / "a.tif")  # RGBA
        mask = Image.fromarray(y[0])
        mask.putpalette([0, 0, 0, 255, 255, 255, 0, 255, 0, 90, 90, 90])
        mask.save(tmp_path / "masks" / "a.png")
        found, masks = tiles.read(tmp_path, 16, 4)
        assert (found[0] == x[0]).all() and (masks[0] == y[0]).all()
        assert (tiles.read(tmp_path, 16, 3)[0][0] == x[0, ..., :3]).all()

    def test_are_train_and_test_of_the_task(self, tmp_path: Path) -> None:
        folder_of(tmp_path / "synthetic-sky" / "train", 6)
        folder_of(tmp_path / "synthetic-sky" / "test", 3, seed=2)
        task = Clouds(data="tiles", folder="synthetic-sky", tile=16, bands="rgbn")
        data = task.load(tmp_path)
        assert (data.x_train.shape, data.y_test.shape) == ((6, 16, 16, 4), (3, 16, 16))
        assert (task.train_labels(tmp_path) == task.labels(data.y_train)).all()

    def test_of_drawn_tiles_have_to_say_so(self, tmp_path: Path) -> None:
        folder_of(tmp_path / "sky" / "train")
        for call in (
            Clouds(data="tiles", folder="sky", tile=16).train_labels,
            Clouds("tiles", folder="sky").load,
        ):
            assert "was drawn, and no satellite saw it: give its folder a name" in refused(call, tmp_path)
        assert Clouds(data="tiles", folder="Synthetic-sky").describe().startswith("SYNTHETIC tiles of 64×64")

    def test_a_picture_without_its_mask_is_named_and_the_other_way_round(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path)
        mask, image = first(folder, "masks"), sorted((folder / "images").iterdir())[1]
        kept = mask.read_bytes()
        mask.unlink()
        said = refused(tiles.read, folder, 16, 3)
        assert said.startswith(f"{first(folder, 'images')}: there is no synthetic_1_train_00000 in")
        mask.write_bytes(kept)
        image.unlink()
        assert refused(tiles.read, folder, 16, 3).startswith(f"{folder / 'masks' / image.name}: there is no")

    def test_an_unusual_size_is_named(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path)
        for kind in ("masks", "images"):
            path = sorted((folder / kind).iterdir())[2]
            Image.open(path).resize((16, 24)).save(path)
            said = refused(tiles.read, folder, 16, 3)
            assert said.startswith(f"{path}: is 16×24, but task_options.tile = 16: cut it")

    def test_an_unknown_value_of_a_mask_is_named_with_those_that_are_known(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path)
        path = first(folder, "masks")
        mask = np.array(Image.open(path))
        mask[3, 3] = 255
        Image.fromarray(mask).save(path)
        said = refused(tiles.read, folder, 16, 3)
        assert said.startswith(
            f"{path}: has the value 255, which no class has; known are 0 background, 1 thick"
        )

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda path: path.write_bytes(b"no picture"), "cannot be read as a picture"),
            (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read as a picture"),
            (
                lambda path: Image.fromarray(np.zeros((16, 16), np.uint16)).save(path),
                "holds pixels of kind I",
            ),
            (lambda path: Image.fromarray(np.zeros((16, 16), np.uint8)).save(path), "holds pixels of kind L"),
        ],
        ids=["not a picture", "cut short", "32 bits", "grey"],
    )
    def test_a_picture_of_another_kind_is_named(self, tmp_path: Path, damage: Any, said: str) -> None:
        folder = folder_of(tmp_path)
        path = first(folder, "images")
        damage(path)
        found = refused(tiles.read, folder, 16, 3)
        assert found.startswith(f"{path}: {said}")

    def test_missing_near_infrared_is_told_with_two_ways_out(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path)
        path = first(folder, "nir")
        path.unlink()
        said = refused(tiles.read, folder, 16, 4)
        assert path.stem in said and "add near infrared, or set task_options.bands" in said

    def test_nothing_there_is_told(self, tmp_path: Path) -> None:
        assert "there is no such folder; see docs/tasks.md" in refused(tiles.read, tmp_path, 16, 3)
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir()
        assert "holds no .png, .tif, .tiff file" in refused(tiles.read, tmp_path, 16, 3)

    def test_two_files_of_one_name_are_not_chosen_between(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path)
        image = first(folder, "images")
        Image.open(image).save(image.with_suffix(".tif"))
        assert "has the same name; keep one of them" in refused(tiles.read, folder, 16, 3)


class TestCutting:
    def scene(self, folder: Path, height: int = 50, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(1)
        image = draw.integers(0, 256, (height, width, 4), np.uint8)
        mask = draw.integers(0, 4, (height, width), np.uint8)
        tiles.write(folder, "scene", image, mask)
        return image, mask

    def test_gives_every_whole_tile_at_its_stride(self, tmp_path: Path) -> None:
        image, mask = self.scene(tmp_path / "scenes")
        assert (
            main(["cut", str(tmp_path / "scenes"), str(tmp_path / "out"), "--size", "20", "--stride", "10"])
            == 0
        )
        x, y = tiles.read(tmp_path / "out", 20, 4)
        assert len(x) == 4 * 3
        assert (x[-1] == image[30:50, 20:40]).all() and (y[-1] == mask[30:50, 20:40]).all()
        assert (x[1] == image[0:20, 10:30]).all()

    def test_is_refused_in_one_line_where_a_scene_is_too_small_or_its_mask_another_size(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.scene(tmp_path)
        assert main(["cut", str(tmp_path), str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.endswith("scene.png: is 40×50, too small for a tile of 400×400\n")
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "masks" / "scene.png")
        said = refused(tiles.cut, tmp_path, tmp_path / "out", 8, 8)
        assert "is 9×9, but scene.png is 40×50" in said

    def test_near_infrared_is_found_however_its_ending_is_written(self, tmp_path: Path) -> None:
        image, _ = self.scene(tmp_path / "scenes")
        path = tmp_path / "scenes" / "nir" / "scene.png"
        path.rename(path.with_suffix(".PNG"))
        assert main(["cut", str(tmp_path / "scenes"), str(tmp_path / "out"), "--size", "40"]) == 0
        assert (tiles.read(tmp_path / "out", 40, 4)[0][0] == image[:40, :40]).all()

    @pytest.mark.parametrize("option", ["--tiles -1", "--tiles 0", "--size 0", "--seed -1"])
    def test_drawing_of_what_cannot_be_is_refused_in_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
    ) -> None:
        assert main(["draw", str(tmp_path / "out"), *option.split()]) == 2
        assert capsys.readouterr().err.startswith(f"{option}: allowed: ")
        assert not (tmp_path / "out").exists()

    def test_of_nothing_is_refused(self, tmp_path: Path) -> None:
        assert "--stride 0" in refused(tiles.cut, tmp_path, tmp_path, 8, 0)


class TestPinnedNodes:
    def test_bring_a_folder_of_tiles(self, tmp_path: Path) -> None:
        task = find("clouds", SMALL, Path()).task
        folder = folder_of(tmp_path / "node", 20, seed=9)
        counted = count_labels(folder)
        x, y = load_node(task, folder, task.load(Path()))
        assert counted.examples == len(x) == 20
        assert counted.labels == {
            str(k): int(v) for k, v in zip(*np.unique(task.labels(y), return_counts=True), strict=True)
        }

    def test_are_counted_before_any_task_is_known(self, tmp_path: Path) -> None:
        """A worker says what it has when it joins."""
        folder = folder_of(tmp_path / "node", 20, seed=9)
        x, y = tiles.read(folder, 16, 3)
        (tmp_path / "archive").mkdir()
        np.savez(tmp_path / "archive" / "data.npz", x=x, y=y)
        assert count_labels(tmp_path / "archive") == count_labels(folder)

    def test_or_an_archive_of_them_whose_masks_are_looked_at(self, tmp_path: Path) -> None:
        task = find("clouds", SMALL, Path()).task
        data = task.load(Path())
        np.savez(tmp_path / "data.npz", x=data.x_test, y=data.y_test)
        assert (load_node(task, tmp_path, data)[0] == data.x_test).all()
        np.savez(tmp_path / "data.npz", x=data.x_test, y=data.y_test + 9)
        assert "a mask has the value" in refused(load_node, task, tmp_path, data)

    @pytest.mark.parametrize(
        "y", [np.zeros((0, 16, 16), np.uint8), np.zeros((2, 0, 16), np.uint8), np.array([["thick"]] * 2)]
    )
    def test_masks_that_are_none_are_refused(self, tmp_path: Path, y: Any) -> None:
        task = find("clouds", SMALL, Path()).task
        data = task.load(Path())
        np.savez(tmp_path / "data.npz", x=data.x_test[: len(y)], y=y)
        refused(load_node, task, tmp_path, data)
        assert "one integer an example" in refused(count_labels, tmp_path)

    def test_of_another_tile_size_are_refused_by_name(self, tmp_path: Path) -> None:
        task = find("clouds", SMALL, Path()).task
        folder = folder_of(tmp_path / "node", size=32)
        assert "is 32×32, but task_options.tile = 16" in refused(load_node, task, folder, task.load(Path()))


def test_pictures_are_colours_a_mask_and_the_likeliest_classes() -> None:
    task = Clouds(bands="rgbn", tile=16, train_tiles=1, test_tiles=3)
    data = task.load(Path())
    logits = np.random.default_rng(0).standard_normal((3, 16, 16, 4))
    shown = task.pictures(data.x_test, data.y_test, logits)
    assert list(shown) == ["image", "mask", "prediction"]
    assert shown["image"].shape == (3, 16, 16, 3)
    assert (shown["prediction"] == logits.argmax(-1)).all()

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.dogs_and_cats import DogsAndCats
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.layouts.dogs_and_cats import write_folders, write_kaggle, write_zip
from tests.layouts.release import write_release


def small(root: Path, **options: object) -> DogsAndCats:
    options = {"image_size": 8, "num_workers": 0, "batch_size": 16, "percent": "5pct", **options}
    return DogsAndCats(root, **options)  # type: ignore[arg-type]


def names(data: DogsAndCats, split: str) -> list[str]:
    samples = data.load(split)  # type: ignore[arg-type]
    assert samples is not None
    assert not isinstance(samples.images, np.ndarray)
    return list(samples.images.names)


def table(data: DogsAndCats, split: str) -> list[int]:
    samples = data.load(split)  # type: ignore[arg-type]
    assert samples is not None
    counts: list[int] = np.bincount(samples.labels * 2 + samples.biases, minlength=4).tolist()
    return counts


def test_release(tmp_path: Path) -> None:
    write_release(tmp_path / "dogs_and_cats", percents=("1pct", "5pct"))
    data = small(tmp_path)
    assert table(data, "train") == [8, 2, 2, 8]
    assert table(data, "val") == [1, 1, 1, 1]
    assert table(data, "test") == [2, 2, 2, 2]
    assert data.class_names == ("cat", "dog")
    assert data.bias_names == ("dark", "bright")


def test_numbers_of_the_whole_set(tmp_path: Path) -> None:
    # the sizes of the two lists; only names are read
    sizes = {"dark/cat": 4748, "bright/cat": 3086, "dark/dog": 3652, "bright/dog": 5299}
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for number, (group, size) in enumerate(sizes.items()):
            for image in range(size):
                stream.writestr(f"{group}.{10000 * number + image}.jpg", b"")
    one, five = small(archive, percent="1pct"), small(archive)
    assert (table(one, "train"), table(five, "train")) == ([3798, 38, 42, 4239], [3798, 214, 238, 4239])
    assert (table(one, "val"), table(five, "val")) == ([450, 4, 6, 560], [450, 25, 31, 560])
    assert table(one, "test") == [500] * 4
    # the test set and the aligned images are the same for both shares, and no image is in two splits
    assert names(one, "test") == names(five, "test")
    assert set(names(one, "train")) < set(names(five, "train"))
    for data in (one, five):
        parts = [names(data, split) for split in ("train", "val", "test")]
        assert len(set().union(*parts)) == sum(map(len, parts))


def test_smaller_sets_shrink_alike(tmp_path: Path) -> None:
    data = small(write_folders(tmp_path, per_group=60))
    # dark cats limit: 90 of 4,748
    scale = 90 / 4748
    aligned = [int(3798 * scale), int(4239 * scale)]
    conflict = [round(count * 452 / 8037) for count in aligned]
    assert table(data, "train") == [aligned[0], conflict[0], conflict[1], aligned[1]]
    assert table(data, "test") == [int(500 * scale)] * 4


def test_what_is_what(tmp_path: Path) -> None:
    data = small(write_folders(tmp_path, per_group=20))
    for split in ("train", "val", "test"):
        samples = data.load(split)
        assert samples is not None
        for name, label, bias in zip(names(data, split), samples.labels, samples.biases, strict=True):
            assert name.startswith(f"{('dark', 'bright')[bias]}/{('cat', 'dog')[label]}.")


@pytest.mark.parametrize("folder", ["train", "."])
def test_lists_give_what_folders_give(tmp_path: Path, folder: str) -> None:
    kaggle = small(write_kaggle(tmp_path / "kaggle", per_group=20, folder=folder))
    sorted_ = small(write_folders(tmp_path / "sorted", per_group=20))
    zipped = small(write_zip(tmp_path / "sorted.zip", tmp_path / "sorted"))
    train_zip = write_zip(tmp_path / "kaggle.zip", tmp_path / "kaggle")
    with_lists = small(train_zip, lists=tmp_path / "kaggle")
    for split in ("train", "val", "test"):
        stems = [Path(name).stem for name in names(kaggle, split)]
        for other in (sorted_, zipped, with_lists):
            assert [Path(name).stem for name in names(other, split)] == stems
            assert table(other, split) == table(kaggle, split)
    images = [everything(data.test_dataloader(), "image") for data in (sorted_, zipped)]
    assert torch.equal(images[0], images[1])
    assert images[0].shape == (len(names(kaggle, "test")), 3, 8, 8)


def test_lists_beside_a_zip(tmp_path: Path) -> None:
    write_kaggle(tmp_path, per_group=20)
    data = small(write_zip(tmp_path / "train.zip", tmp_path / "train"))
    shutil.rmtree(tmp_path / "train")
    assert len(names(data, "train")) > 20


def test_lists_with_folders_blank_lines_and_windows_ends(tmp_path: Path) -> None:
    write_kaggle(tmp_path, per_group=20)
    expected = names(small(tmp_path), "train")
    path = tmp_path / "list_dark.txt"
    path.write_bytes(b"\r\n".join(b"some folder/" + line for line in path.read_bytes().split()) + b"\r\n\r\n")
    assert names(small(tmp_path), "train") == expected


def test_seed_decides_the_split(tmp_path: Path) -> None:
    write_folders(tmp_path, per_group=60)
    assert names(small(tmp_path, seed=1), "train") == names(small(tmp_path, seed=1), "train")
    assert names(small(tmp_path, seed=1), "train") != names(small(tmp_path, seed=2), "train")


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.root: .*none does not exist; get the images from https://www\.kaggl"
    ):
        small(tmp_path / "none").setup()


def test_missing_lists(tmp_path: Path) -> None:
    write_kaggle(tmp_path, per_group=3)
    (tmp_path / "list_bright.txt").unlink()
    with pytest.raises(
        ConfigError, match=r"neither a share .* nor the folders bright and dark, and there is no .*list_b"
    ):
        small(tmp_path).setup()


def test_missing_images(tmp_path: Path) -> None:
    write_kaggle(tmp_path, per_group=3)
    (tmp_path / "train" / "cat.4.jpg").unlink()
    (tmp_path / "train" / "dog.6.jpg").unlink()
    with pytest.raises(
        ConfigError, match=r"lacks 2 images of list_dark\.txt and list_bright\.txt, the first is cat\.4;"
    ):
        small(tmp_path).setup()


def test_wrong_lists(tmp_path: Path) -> None:
    write_kaggle(tmp_path, per_group=3)
    dark, bright = tmp_path / "list_dark.txt", tmp_path / "list_bright.txt"
    bright.write_text(bright.read_text() + dark.read_text().split()[0] + "\n")
    with pytest.raises(ConfigError, match=r"list_bright\.txt: cat\.104\.jpg is in both lists; get them from"):
        small(tmp_path).setup()
    bright.write_text("cow.3.jpg\n")
    with pytest.raises(ConfigError, match=r"list_bright\.txt: 'cow\.3\.jpg' is no file name such as cat\.12\.jpg; get"):
        small(tmp_path).setup()


def test_the_same_image_twice(tmp_path: Path) -> None:
    write_folders(tmp_path, per_group=3)
    shutil.copy(tmp_path / "dark" / "cat.4.png", tmp_path / "bright" / "cat.4.png")
    with pytest.raises(
        ConfigError, match=r"holds the same image as bright/cat\.4\.png and as dark/cat\.4\.png; delete"
    ):
        small(tmp_path).setup()


def test_too_few_images(tmp_path: Path) -> None:
    write_folders(tmp_path, per_group=20)
    small(tmp_path, percent="5pct").setup()
    with pytest.raises(
        ConfigError, match=r"^data\.percent=1pct: .* too few images for it \(30 dark and 20 bright cats, 2"
    ):
        small(tmp_path, percent="1pct").setup()

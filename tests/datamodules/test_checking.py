import os
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch

from datamodules import Batch
from datamodules.checking import find_broken
from datamodules.dataset import FileStore
from datamodules.folder import Folder
from datamodules.images import Container, ImageFiles
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.ddp import RankError, run_ddp
from tests.layouts.folder import write_folder, write_images


def small(root: Path, **options: Any) -> Folder:
    return Folder(root, **{"image_size": 16, "num_workers": 0, "batch_size": 4, "augment": "none", **options})


def damage(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:200])
    return root


def store(root: Path, count: int, *broken: int, cache: bool = False) -> FileStore:
    names = [f"{number:03d}.png" for number in range(count)]
    write_images(root, names)
    damage(root, *(names[number] for number in broken))
    return FileStore(ImageFiles(Container(root), names), 16, cache)


def test_broken_images_are_found_in_every_store(tmp_path: Path) -> None:
    stores = [store(tmp_path / "a", 70, 0, 31, 32, 69), store(tmp_path / "b", 3), store(tmp_path / "c", 2, 1)]
    (tmp_path / "c" / "000.png").unlink()
    assert [[*found] for found in find_broken(stores)] == [[0, 31, 32, 69], [], [0, 1]]
    assert "No such file" in find_broken(stores)[2][0]
    assert find_broken([]) == []


def test_what_was_checked_is_in_the_cache(tmp_path: Path) -> None:
    files = store(tmp_path, 40, 7, cache=True)
    expected = store(tmp_path / "again", 40).gather(np.array([3, 39]))
    assert [*find_broken([files])[0]] == [7]
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert (files.gather(np.array([3, 39])) == expected).all()


def test_a_store_takes_over_what_another_has_decoded(tmp_path: Path) -> None:
    files = store(tmp_path, 4, 1, cache=True)
    find_broken([files])
    rest = np.array([0, 2, 3])
    fresh = FileStore(files.files.select(rest.tolist()), 16, cache=True)
    fresh.take_over(files, rest)
    expected = files.gather(rest)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert (fresh.gather(np.arange(3)) == expected).all()


def test_a_zip_is_read_by_many_threads(tmp_path: Path) -> None:
    store(tmp_path / "a", 80, 20, 70)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((tmp_path / "a").iterdir()):
            archive.write(path, path.name)
    container = Container(tmp_path / "a.zip")
    files = FileStore(ImageFiles(container, container.names([""])), 16, cache=True)
    assert [*find_broken([files])[0]] == [20, 70]
    good = np.delete(np.arange(80), [20, 70])
    assert (files.gather(good) == store(tmp_path / "b", 80).gather(good)).all()


BROKEN = ("train/cat/0001.jpg", "val/dog/0000.jpg", "test/cat/0002.jpg")


def test_broken_images_of_all_splits_are_named_before_training(tmp_path: Path) -> None:
    root = damage(write_folder(tmp_path), *BROKEN)
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            small(root).setup("fit")
        names = ", ".join(str(root / name) for name in BROKEN)
        assert str(error.value) == (
            f"data.root: 3 images cannot be read: {names} (the first: Truncated File Read); replace or delete what is "
            "broken, or set data.broken=skip"
        )


def test_five_names_and_the_count(tmp_path: Path) -> None:
    root = write_folder(tmp_path, per_group=4)
    damage(root, *(f"train/{label}/000{number}.jpg" for label in ("cat", "dog") for number in range(3)))
    with pytest.raises(
        ConfigError, match=r"6 images cannot be read: (\S+, ){4}\S+dog/0001\.jpg, \.\.\. \(the first: .+\); replace"
    ):
        small(root).setup("fit")


def test_one_broken_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 image cannot be read: \S+cat/0001\.jpg \(Truncated File Read\); replace"):
        small(damage(write_folder(tmp_path), BROKEN[0])).setup("fit")


def test_the_reason_is_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path)
    (root / BROKEN[0]).write_text("<html>")
    with pytest.raises(ConfigError, match=r"0001\.jpg \(no image format that is known\); replace"):
        small(root).setup("fit")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ConfigError, match=r"18 images .* \(the first: Image size .* exceeds limit of 20 pixels"):
        small(root).setup("fit")

    def open_wordily(*_: object) -> None:
        raise OSError("many\nlines " * 100)

    monkeypatch.setattr("PIL.Image.open", open_wordily)
    with pytest.raises(ConfigError, match=r"^.* \(the first: (many lines )+many li\.\.\.\); replace") as error:
        small(root).setup("fit")
    assert len(str(error.value).partition("(the first: ")[2].partition(")")[0]) == 120


def test_other_commands_look_at_the_images_they_use(tmp_path: Path) -> None:
    root = damage(write_folder(tmp_path), BROKEN[0], BROKEN[1])
    data = small(root)
    data.setup("test")
    assert len(data.train_labels()) == 6
    with pytest.raises(ConfigError, match=r"1 image cannot be read: \S+val/dog/0000\.jpg \(.+\);"):
        data.setup("validate")


@pytest.mark.parametrize("cache", [False, True])
def test_broken_images_are_left_out(tmp_path: Path, cache: bool, caplog: pytest.LogCaptureFixture) -> None:
    clean = small(write_folder(tmp_path / "clean", biases=("a", "b")), bias="folder", cache=cache)
    root = write_folder(tmp_path / "own", biases=("a", "b"))
    damage(root, "train/cat/a/0001.jpg", "train/dog/b/0002.jpg", "test/cat/b/0000.jpg")
    data = small(root, bias="folder", broken="skip", cache=cache)
    with caplog.at_level("INFO", "diffubias"):
        data.setup("fit")
    left_out = [message for message in caplog.messages if message.startswith("left out: ")]
    assert len(left_out) == 3
    assert left_out[0].startswith(f"left out: {root / 'train/cat/a/0001.jpg'} (")
    assert left_out[1].startswith(f"left out: {root / 'train/dog/b/0002.jpg'} (")
    assert left_out[2].startswith(f"left out: {root / 'test/cat/b/0000.jpg'} (")
    assert data.train_labels().tolist() == [0] * 5 + [1] * 5
    assert data.train_biases().tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert len(everything(data.val_dataloader(), "label")) == 12
    # the images that are left keep their pixels, their labels and their own numbers
    clean.setup("fit")
    kept = np.delete(np.arange(12), [1, 11])
    assert (np.asarray(data.source_image(9)) == np.asarray(clean.source_image(10))).all()
    images, expected = (everything(d.mining_dataloader(0, 1), "image") for d in (data, clean))
    assert torch.equal(images, expected[kept])
    kept = np.delete(np.arange(12), 3)
    images, expected = (everything(d.test_dataloader(), "image") for d in (data, clean))
    assert torch.equal(images, expected[kept])


def test_labels_asked_for_before_setup_are_those_of_the_images_left(tmp_path: Path) -> None:
    data = small(damage(write_folder(tmp_path), BROKEN[0]), broken="skip")
    assert len(data.train_labels()) == 5
    data.setup("fit")
    assert len(data.train_labels()) == 5


def test_a_class_of_broken_images_is_missing(tmp_path: Path) -> None:
    root = damage(write_folder(tmp_path), *(f"train/cat/000{number}.jpg" for number in range(3)))
    with pytest.raises(ConfigError, match="class 'cat' of Folder has no training sample"):
        small(root, broken="skip").setup("fit")


def test_unchecked_starts_at_once_and_stops_at_a_broken_image(tmp_path: Path) -> None:
    data = small(damage(write_folder(tmp_path), BROKEN[2]), broken="unchecked")
    data.setup("fit")
    assert len(list(data.train_dataloader())) == 2
    with pytest.raises(ConfigError, match=r"cannot read the image .*test/cat/0002\.jpg"):
        list(data.test_dataloader())


def test_nothing_is_decoded_twice_with_a_cache(tmp_path: Path) -> None:
    data = small(damage(write_folder(tmp_path), BROKEN[0]), broken="skip", cache=True)
    data.setup("fit")
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    assert everything(data.mining_dataloader(0, 1), "image").shape == (5, 3, 16, 16)
    assert everything(data.val_dataloader(), "image").shape == (6, 3, 16, 16)
    assert everything(data.test_dataloader(), "image").shape == (6, 3, 16, 16)


class Recorder(L.LightningModule):
    """Writes down what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(3, 2)
        self.seen: list[int] = []

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        self.seen += batch["index"].tolist()
        return torch.nn.functional.cross_entropy(self.net(batch["image"].mean((2, 3))), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_on_two_ranks(rank: int, world_size: int, roots: list[Path]) -> tuple[list[int], int]:
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ.update({"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "0", "GROUP_RANK": "0"})
    module, data = Recorder(), small(roots[rank], broken="skip")
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", strategy="ddp", devices=world_size, **options)
    trainer.fit(module, datamodule=data)
    return module.seen, len(data.train_labels())


def test_two_ranks_leave_out_the_same_images(tmp_path: Path) -> None:
    root = damage(write_folder(tmp_path, per_group=6), BROKEN[0], BROKEN[2])
    first, second = run_ddp(fit_on_two_ranks, [root, root])
    assert first[1] == second[1] == 11
    assert set(first[0] + second[0]) == set(range(11))


def test_two_ranks_that_disagree_stop_together(tmp_path: Path) -> None:
    roots = [damage(write_folder(tmp_path / name, per_group=6), BROKEN[0]) for name in ("a", "b")]
    damage(roots[1], "train/dog/0004.jpg")
    start = time.monotonic()
    with pytest.raises(RankError, match="the processes find different images broken, so the disk answers unreliably"):
        run_ddp(fit_on_two_ranks, roots)
    assert time.monotonic() - start < 60

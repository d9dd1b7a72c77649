from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.synthesis import Gate, Judge, ZeroShotJudge
from callbacks.synthesis import drawing as drawing_module
from callbacks.synthesis.files import read_lines
from datamodules import Miniature
from datamodules.miniature_world import SHAPES
from lightning_modules import ConfigError, DebiasedModule
from lightning_modules.losses import cross_entropy
from tests.callbacks.test_drawing import tree
from tests.callbacks.toy import Painter, draw, planned
from tests.ddp import run_ddp
from tests.generators import write_synthetic
from tests.tiny_models import clip_text_config, clip_tokenizer


class Corner(Judge):
    """Holds an image for right in so far as its first value is great."""

    batch_size = 7

    def __init__(self) -> None:
        self._asked = 0

    def agreement(
        self, images: Sequence[Image.Image], labels: Sequence[int], class_names: Sequence[str]
    ) -> list[float]:
        self._asked += len(images)
        return [float(np.asarray(image)[0, 0, 0] / 255) for image in images]


def corner(folder: Path, name: str) -> float:
    return float(np.asarray(Image.open(folder / name))[0, 0, 0]) / 255


def draw_on_rank(rank: int, size: int, folder: Path) -> None:
    draw(folder, Painter(), planned(30), Gate(judge=Corner(), mismatch="redraw"))


def test_images_that_do_not_show_their_label_are_left_out(tmp_path: Path) -> None:
    plain, judged = tmp_path / "plain", tmp_path / "judged"
    draw(plain, Painter(), planned(40))
    counts = draw(judged, Painter(), planned(40), Gate(judge=Corner(), agreement=0.3))
    every = {record["file_name"]: corner(plain, record["file_name"]) for record in read_lines(plain / "metadata.jsonl")}
    kept, rejected = read_lines(judged / "metadata.jsonl"), read_lines(judged / "rejected.jsonl")
    assert {record["file_name"] for record in kept} == {name for name, value in every.items() if value >= 0.3}
    assert counts["mismatch"] == len(rejected) == 40 - len(kept) > 0
    for record in [*kept, *rejected]:
        assert record["agreement"] == pytest.approx(every[record["file_name"]], abs=1e-5)
    assert {record["weight"] for record in kept} == {1.0}
    assert {record["verdict"] for record in rejected} == {"mismatch"}
    assert len(list((judged / "images").iterdir())) == len(kept)


def test_a_judge_without_numbers_lets_nothing_through(tmp_path: Path) -> None:
    class Overflown(Corner):
        def agreement(
            self, images: Sequence[Image.Image], labels: Sequence[int], class_names: Sequence[str]
        ) -> list[float]:
            return [float("nan")] * len(images)

    with pytest.raises(ConfigError, match=r"synthesize\.gate\.judge: .*float32"):
        draw(tmp_path, Painter(), planned(4), Gate(judge=Overflown()))
    assert not (tmp_path / "metadata.jsonl").exists()


def test_or_drawn_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    draw(tmp_path, Painter(), planned(40), Gate(retries=1, judge=Corner(), mismatch="redraw"))
    kept, rejected = read_lines(tmp_path / "metadata.jsonl"), read_lines(tmp_path / "rejected.jsonl")
    assert all(corner(tmp_path, record["file_name"]) >= 0.5 for record in kept)
    assert {record["attempt"] for record in kept} == {record["attempt"] for record in rejected} == {0, 1}
    first = {record["file_name"] for record in rejected if record["attempt"] == 0}
    assert {record["file_name"] for record in kept if record["attempt"] == 1} <= first
    assert len(kept) + sum(record["attempt"] == 1 for record in rejected) == 40


def test_or_weighed_by_their_agreement(tmp_path: Path) -> None:
    counts = draw(tmp_path, Painter(), planned(20), Gate(judge=Corner(), mismatch="weigh"))
    kept = read_lines(tmp_path / "metadata.jsonl")
    assert counts == {"keep": 20}
    assert [record["weight"] for record in kept] == [record["agreement"] for record in kept]
    assert kept[3]["weight"] == pytest.approx(corner(tmp_path, kept[3]["file_name"]), abs=1e-5)


def test_without_a_judge_nothing_is_weighed(tmp_path: Path) -> None:
    draw(tmp_path, Painter(), planned(4))
    assert [(r["agreement"], r["weight"]) for r in read_lines(tmp_path / "metadata.jsonl")] == [(None, 1.0)] * 4


def test_an_image_is_judged_once_whatever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "whole", Painter(), planned(30), Gate(judge=Corner(), mismatch="redraw"))

    def die() -> None:
        raise KeyboardInterrupt

    first, second, painter = Corner(), Corner(), Painter()
    with monkeypatch.context() as patch:
        patch.setattr(drawing_module, "flush_disks", die)
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path / "killed", Painter(), planned(30), Gate(judge=first, mismatch="redraw"))
    draw(tmp_path / "killed", painter, planned(30), Gate(judge=second, mismatch="redraw"))
    assert first._asked > 30
    assert second._asked == 0
    assert painter._drawn == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_two_processes_judge_as_one(tmp_path: Path) -> None:
    draw_on_rank(0, 1, tmp_path / "one")
    run_ddp(draw_on_rank, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_loss_counts_as_much_as_its_weight(tmp_path: Path) -> None:
    write_synthetic(tmp_path, [0, 1, 2, 3], SHAPES, weight=0.25)
    data = Miniature(train_size=16, test_size=8, batch_size=20)
    data.synthetic_dir, data.source = tmp_path, "both"
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(batch["weight"], torch.where(batch["synthetic"], 0.25, 1.0))
    assert batch["synthetic"].sum() == 4
    module = DebiasedModule(num_classes=8, backbone="smallresnet").eval()
    losses = cross_entropy(module(batch["image"]), batch["label"])
    torch.testing.assert_close(module.training_step(batch, 0), (losses * batch["weight"]).mean())


def test_a_weight_outside_its_range_is_refused(tmp_path: Path) -> None:
    write_synthetic(tmp_path, [0, 1], SHAPES, weight=1.5)
    data = Miniature(train_size=16, test_size=8)
    data.synthetic_dir, data.source = tmp_path, "both"
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"line 1: the weight 1\.5 does not lie in 0\.\.1"):
        data.train_dataloader()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with its processor."""
    hf: Any = import_module("transformers")
    folder = tmp_path_factory.mktemp("clip")
    vision = {
        "hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 32,
        "patch_size": 8, "projection_dim": 16,
    }  # fmt: skip
    text = clip_text_config(projection_dim=16).to_dict()
    torch.manual_seed(0)
    hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    hf.CLIPProcessor(images, clip_tokenizer(folder / "raw")).save_pretrained(folder)
    return folder


def test_clip_gives_the_probability_of_the_label(clip: Path) -> None:
    hf: Any = import_module("transformers")
    random = np.random.default_rng(4)
    images = [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(5)]
    labels = [0, 1, 0, 1, 1]
    judge = ZeroShotJudge(str(clip), templates=["a {class}", "my {class}"], words={"kitty": "cat"})
    judge.check(("kitty", "big_dog"))
    judge.load(torch.device("cpu"))
    scores = judge.agreement(images, labels, ["kitty", "big_dog"])
    judge.release()
    processor, model = hf.CLIPProcessor.from_pretrained(clip), hf.CLIPModel.from_pretrained(clip).eval()
    texts = ["a cat", "my cat", "a big dog", "my big dog"]
    with torch.no_grad():
        logits = model(**processor(text=texts, images=images, padding=True, return_tensors="pt")).logits_per_image
    expected = torch.stack([logits[:, :2].mean(dim=1), logits[:, 2:].mean(dim=1)], dim=1).softmax(dim=1)
    torch.testing.assert_close(torch.tensor(scores), expected[range(5), labels])
    assert len(set(scores)) == 5


def test_mistakes_are_one_line(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gate\.judge\.templates"):
        ZeroShotJudge(templates=["a photo"])
    with pytest.raises(ConfigError, match=r"gate\.agreement"):
        Gate(agreement=1.5)
    with pytest.raises(ConfigError, match=r"gate\.judge"):
        ZeroShotJudge(str(tmp_path / "nowhere")).check(("cat", "dog"))
    judge = ZeroShotJudge(str(clip), words={"cow": "moo"})
    with pytest.raises(ConfigError, match=r"words: there is no class 'cow'; there are cat, dog"):
        judge.check(("cat", "dog"))

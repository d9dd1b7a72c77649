"""What the benchmarks say of drawn images: right labels and kernel distance."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.drawn_quality import EmbeddedJudge, FittedJudge, Judge, kid, read_drawn, right_share
from benchmarks.error_sets import read_errors
from benchmarks.over_seeds import put_row, read_rows
from tests.chain import ROOT


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of upright and of level stripes, uint8 [N, 3, 16, 16], and which they show [N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    stripe = (torch.arange(16) // 2 % 2).float()
    upright = stripe[None, :].expand(16, 16)
    shown = torch.stack([upright, upright.T])[labels]
    noisy = 60 + 120 * shown[:, None] + 20 * torch.randn(count, 3, 16, 16, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def judge() -> Judge:
    return FittedJudge(*stripes(256, seed=1), num_classes=2, epochs=20)


def test_a_judge_that_has_learnt_finds_right_and_wrong_labels(judge: Judge) -> None:
    images, labels = stripes(200, seed=2)
    assert right_share(judge, images, labels) == 1
    wrong = torch.cat([1 - labels[:50], labels[50:]])
    assert right_share(judge, images, wrong) == 0.75


def test_the_distance_is_small_among_equal_pictures_only(judge: Judge) -> None:
    images, labels = stripes(400, seed=3)
    near = kid(judge, images[:200], images[200:])
    far = kid(judge, images[labels == 0], images[labels == 1])
    assert abs(near) < far / 20


def test_the_embedded_judge_names_shapes() -> None:
    judge = EmbeddedJudge(ROOT / "assets/miniature/judge")
    scores, features = judge(torch.zeros(3, 3, 32, 32, dtype=torch.uint8))
    assert scores.shape == (3, 8)
    assert features.shape == (3, 1536)


def test_drawn_pictures_are_read_in_the_size_of_the_data(tmp_path: Path) -> None:
    records = []
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{number}.png")
        records.append({"file_name": f"{number}.png", "label": 3 + number})
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(own)}\n" for own in records))
    images, labels = read_drawn(tmp_path, 4)
    assert images.shape == (2, 3, 4, 4)
    assert images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert labels.tolist() == [3, 4]


def test_what_was_logged_about_the_errors_is_read(tmp_path: Path) -> None:
    log = tmp_path / "stages/02-debiased/logs/attempt-0/metrics.csv"
    log.parent.mkdir(parents=True)
    names = ("errors/count", "errors/precision", "errors/recall", "errors/auroc")
    log.write_text(f"epoch,{','.join(names)}\n,52.0,0.96,1.0,0.99\n0,,,,\n")
    assert read_errors(tmp_path) == {"errors": 52, "precision": 0.96, "recall": 1, "auroc": 0.99}


def test_a_row_takes_the_place_of_its_own_only(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    put_row(table, {"method": "a", "seed": 1, "kid": 0.5}, ("method", "seed"))
    put_row(table, {"method": "a", "seed": 2, "right": 0.9}, ("method", "seed"))
    put_row(table, {"method": "a", "seed": 1, "kid": 0.25}, ("method", "seed"))
    assert read_rows(table) == [
        {"method": "a", "seed": "2", "right": "0.9"},
        {"method": "a", "seed": "1", "kid": "0.25"},
    ]

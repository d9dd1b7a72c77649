from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812

from lightning_modules.vanilla import Vanilla
from tests.datamodules.toy import NAMES, Pictures
from tests.fitting import make_trainer
from tests.generators import write_synthetic


def test_real_and_synthetic_images_count_alike(tmp_path: Path) -> None:
    data = Pictures(batch_size=64, augment="none")
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [0, 1, 2, 2], NAMES, 20)
    data.source = "both"
    (batch,) = data.train_dataloader()
    assert batch["synthetic"].sum() == 4
    model = Vanilla(num_classes=3, backbone="mlp", backbone_args={"hidden": [4], "image_size": 16})
    expected = F.cross_entropy(model(batch["image"]), batch["label"]).item()
    trainer = make_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    torch.testing.assert_close(trainer.logged_metrics["train/loss"].item(), expected)

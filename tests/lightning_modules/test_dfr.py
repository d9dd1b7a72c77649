import logging
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from callbacks import StageCallback
from datamodules import Samples
from datamodules.samples import Split
from lightning_modules import Classifier, ConfigError
from lightning_modules.dfr import DFR
from lightning_modules.last_layer import fold, logistic_regression
from lightning_modules.vanilla import Vanilla
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer

NETWORK: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "mlp",
    "backbone_args": {"hidden": [24], "image_size": 16, "divide_by_255": False},
    "lr": 3e-3,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Coloured(Pictures):
    """The colour of the ground is the bias, a fainter patch in one of three places the class.

    In training a colour goes with a class but for every tenth picture; in validation and test all groups are equal.
    """

    def load(self, split: Split) -> Samples:
        each = 60 if split == "train" else 8
        labels = np.repeat(np.arange(3), 3 * each)
        biases = np.tile(np.arange(3), 3 * each)
        if split == "train":
            biases = np.where(np.arange(len(labels)) % 10 > 0, labels, biases)
        random = np.random.default_rng([self.seed, len(split), split == "val"])
        images = random.integers(0, 60, (len(labels), 16, 16, 3))
        rows = np.arange(len(labels))
        images[rows, :, :, biases] += 120
        for label in range(3):
            images[labels == label, 5 * label : 5 * label + 5] += 25
        return Samples(images.astype(np.uint8), labels, biases)


class Unlabelled(Coloured):
    def load(self, split: Split) -> Samples:
        samples = super().load(split)
        return Samples(samples.images, samples.labels, np.full(len(samples), -1)) if split == "val" else samples


class Unbiased(Coloured):
    bias_names = ()


class Incomplete(Coloured):
    """No validation image of class b has a known bias."""

    def load(self, split: Split) -> Samples:
        samples = super().load(split)
        if split == "val":
            samples.biases[samples.labels == 1] = -1
        return samples


class Partial(Coloured):
    """Validation images without a bias label, of misleading classes, beside the others."""

    def load(self, split: Split) -> Samples:
        samples = super().load(split)
        if split != "val":
            return samples
        images = np.concatenate([np.asarray(samples.images)] * 2)
        labels = np.concatenate([samples.labels, (samples.labels + 1) % 3])
        return Samples(images, labels, np.concatenate([samples.biases, np.full(len(samples), -1)]))


def make_data(kind: type[Coloured] = Coloured, **options: Any) -> Coloured:
    return kind(**{"augment": "none", "batch_size": 32, **options})


@pytest.fixture(scope="module")
def erm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a classifier that follows the colour."""
    folder = tmp_path_factory.mktemp("erm")
    L.seed_everything(0, verbose=False)
    trainer = make_trainer(folder, 3, enable_checkpointing=False)
    trainer.fit(Vanilla(**NETWORK), datamodule=make_data())
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def fitted(folder: Path, erm: Path, data: Coloured | None = None, seed: int = 3, **options: Any) -> DFR:
    """A stage that starts from the classifier, as a chain has it."""
    names = {"devices", "strategy", "precision", "check_val_every_n_epoch", "max_epochs"} & options.keys()
    trainer_options = {key: options.pop(key) for key in names}
    module = DFR(**{**NETWORK, **options})
    callbacks = [
        StageCallback(folder, seed, erm),
        ModelCheckpoint(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True),
        ModelCheckpoint(folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False),
    ]
    trainer = make_trainer(folder, callbacks=callbacks, **trainer_options)
    trainer.fit(module, datamodule=data or make_data())
    assert trainer.global_step == 1
    return module


def scores(folder: Path, module: Classifier, checkpoint: Path | None = None) -> dict[str, float]:
    (values,) = make_trainer(folder).test(module, datamodule=make_data(), ckpt_path=checkpoint, verbose=False)
    return dict(values)


def head(module: Classifier) -> tuple[Tensor, Tensor]:
    weights = module.state_dict()
    return weights["network.head.weight"].clone(), weights["network.head.bias"].clone()


def features(module: Classifier, loader: Any) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = [(module.eval().features(batch["image"]), batch["label"]) for batch in loader]
    return torch.cat([part[0] for part in found]).double().numpy(), torch.cat([part[1] for part in found]).numpy()


def expected_head(
    module: Classifier, data: Coloured, c: float, normalize: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What the method comes to where every balanced subset is the whole validation set."""
    train, _ = features(module, data.mining_dataloader(0, 1))
    val, labels = features(module, data.val_dataloader())
    if normalize:
        train, val = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, val))
    scaler = StandardScaler().fit(train)
    return fold(*logistic_regression(scaler.transform(val), labels, c, 3), scaler.mean_, scaler.scale_)


def test_the_worst_group_gets_better_and_only_the_last_layer_changes(tmp_path: Path, erm: Path) -> None:
    module = fitted(tmp_path, erm)
    before = scores(tmp_path, Vanilla(**NETWORK), erm)
    after = scores(tmp_path, module)
    assert before["test/aligned"] > 0.9
    assert before["test/worst_group"] < 0.5
    assert after["test/worst_group"] > before["test/worst_group"] + 0.2
    old, new = torch.load(erm, weights_only=True)["state_dict"], module.state_dict()
    assert old.keys() == new.keys()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed == {"network.head.weight", "network.head.bias"}


@pytest.mark.parametrize("normalize", [False, True])
def test_the_layer_is_the_regression_with_the_scaler_folded_in(tmp_path: Path, erm: Path, normalize: bool) -> None:
    module = fitted(tmp_path, erm, c_values=[0.3], refits=3, normalize=normalize)
    plain = Vanilla.load_from_checkpoint(erm, weights_only=True)
    weight, bias = expected_head(plain, make_data(), 0.3, normalize)
    for ours, theirs in zip(head(module), (weight, bias), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=0.02 * np.abs(theirs).max())
    image = next(iter(make_data().test_dataloader()))["image"]
    with torch.no_grad():
        seen = plain.eval().features(image)
        seen = F.normalize(seen, dim=1) if normalize else seen
        torch.testing.assert_close(module.eval()(image), F.linear(seen, *head(module)))


def test_checkpoints_hold_the_new_layer(tmp_path: Path, erm: Path) -> None:
    module = fitted(tmp_path, erm, normalize=True)
    values = scores(tmp_path, module)
    for name in ("last", "best"):
        path = tmp_path / f"{name}.ckpt"
        assert scores(tmp_path, DFR(**NETWORK, normalize=True), path) == values
        assert scores(tmp_path, DFR.load_from_checkpoint(path, weights_only=True)) == values
        state = torch.load(path, weights_only=True)["state_dict"]
        assert torch.equal(state["network.head.weight"], head(module)[0])
    assert (tmp_path / "fit_done").exists()


def test_the_validation_that_selects_sees_the_new_layer(tmp_path: Path, erm: Path) -> None:
    module = fitted(tmp_path, erm, check_val_every_n_epoch=5)
    metrics = torch.load(tmp_path / "best.ckpt", weights_only=True)["callbacks"]
    (best,) = [state["best_model_score"] for state in metrics.values() if state.get("monitor")]
    (values,) = make_trainer(tmp_path).validate(module, datamodule=make_data(), verbose=False)
    assert best == pytest.approx(values["val/accuracy"])


def test_a_finished_fit_is_not_repeated_and_a_killed_one_starts_anew(tmp_path: Path, erm: Path) -> None:
    module = fitted(tmp_path, erm, refits=1)
    (tmp_path / "fit_done").unlink()
    again = DFR(**NETWORK, refits=1)
    trainer = make_trainer(tmp_path, callbacks=[StageCallback(tmp_path, seed=99, init=erm)])
    trainer.fit(again, datamodule=make_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(head(again), head(module), strict=True))
    anew = fitted(tmp_path / "anew", erm, refits=1)
    assert all(torch.equal(a, b) for a, b in zip(head(anew), head(module), strict=True))


def test_statistics_of_batch_normalisation_stay(tmp_path: Path) -> None:
    start = Vanilla(num_classes=3, backbone="smallresnet")
    trainer = make_trainer(tmp_path, limit_train_batches=3)
    trainer.fit(start, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module = fitted(tmp_path / "dfr", tmp_path / "a.ckpt", backbone="smallresnet", backbone_args=None, refits=1)
    old, new = start.state_dict(), module.state_dict()
    assert {key for key in old if not torch.equal(old[key], new[key])} == {"network.head.weight", "network.head.bias"}


def test_images_without_bias_label_are_left_out(tmp_path: Path, erm: Path) -> None:
    layers = [head(fitted(tmp_path / kind.__name__, erm, make_data(kind), refits=2)) for kind in (Coloured, Partial)]
    for ours, theirs in zip(*layers, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02 * theirs.abs().max().item(), rtol=0)


def test_a_watched_test_set_is_not_fitted_to(tmp_path: Path, erm: Path) -> None:
    options: dict[str, Any] = {"refits": 1, "c_values": [0.1]}
    layers = [head(fitted(tmp_path / str(w), erm, make_data(watch_test=w), **options)) for w in (False, True)]
    assert all(torch.equal(a, b) for a, b in zip(*layers, strict=True))


def test_augmentation_and_precision_do_not_matter(tmp_path: Path, erm: Path) -> None:
    plain = head(fitted(tmp_path / "plain", erm, refits=1))
    data = make_data(augment="crop_flip")
    other = head(fitted(tmp_path / "other", erm, data, refits=1, precision="bf16-mixed"))
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_a_network_in_half_precision_gets_its_layer(tmp_path: Path, erm: Path) -> None:
    weight, _ = head(fitted(tmp_path, erm, refits=1, precision="bf16-true"))
    assert weight.dtype == torch.bfloat16
    assert not torch.equal(weight.float(), torch.load(erm, weights_only=True)["state_dict"]["network.head.weight"])


def test_it_tells_what_it_did(tmp_path: Path, erm: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "diffubias"):
        fitted(tmp_path, erm, c_values=[0.3], refits=1)
    assert "last layer fitted to 8 validation images of each of 9 groups with C = 0.3" in caplog.text


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Unlabelled, "those of Unlabelled have none"), (Incomplete, "none of b with a known bias")],
)
def test_unfit_validation_sets_are_refused(tmp_path: Path, erm: Path, kind: type[Coloured], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        fitted(tmp_path, erm, make_data(kind))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "last.ckpt").exists()


def test_data_without_bias_labels_are_refused_before_earlier_stages_are_fitted() -> None:
    with pytest.raises(ConfigError, match="those of Unbiased have none"):
        DFR(**NETWORK).check_fit(make_data(Unbiased))


def test_there_is_one_epoch_whatever_the_trainer_is_told(tmp_path: Path, erm: Path) -> None:
    assert fitted(tmp_path, erm, refits=1, max_epochs=7).trainer.current_epoch == 1


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.c_values"):
        DFR(c_values=[1.0, 0.0])
    with pytest.raises(ConfigError, match=r"model\.c_values"):
        DFR(c_values=[])
    with pytest.raises(ConfigError, match=r"model\.refits"):
        DFR(refits=0)
    with pytest.raises(ConfigError, match="SqueezeNet has no linear last layer"):
        DFR(backbone="squeezenet1_1").check(Pictures(image_size=64))


def fit_rank(rank: int, world_size: int, folder: Path, erm: Path) -> tuple[Tensor, Tensor]:
    return head(fitted(folder, erm, devices=world_size, strategy="ddp" if world_size > 1 else "auto"))


def test_two_processes_get_the_layer_of_one(tmp_path: Path, erm: Path) -> None:
    one = fit_rank(0, 1, tmp_path / "one", erm)
    first, second = run_ddp(as_launched, fit_rank, tmp_path / "two", erm)
    for ours, theirs, alone in zip(first, second, one, strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, alone, rtol=1e-3, atol=1e-4)

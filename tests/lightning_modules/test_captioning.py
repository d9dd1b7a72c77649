import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks import StageCallback
from callbacks.synthesis import Captioner
from lightning_modules import CaptionModel, ConfigError
from tests import tiny_models
from tests.datamodules.toy import Described, Pictures, two_texts
from tests.fitting import make_trainer

pytestmark = pytest.mark.filterwarnings("ignore")
MODELS: dict[str, Callable[[Path], Path]] = {
    "vision_encoder_decoder": tiny_models.save_vision_encoder_decoder,
    "blip": tiny_models.save_blip,
    "blip_2": tiny_models.save_blip_2,
    "llava": tiny_models.save_llava,
    "gemma_3": tiny_models.save_gemma_3,
}
BARE = ("blip", "vision_encoder_decoder")  # captioners alone, the others talk
SENTENCE = "the dog on grass near water"


class Pets(Pictures):
    class_names = ("dog", "cat", "boat")
    bias_names = ("grass", "sand", "water")


def fitted(model: Path, folder: Path, epochs: int, resume: Path | None = None, **settings: Any) -> CaptionModel:
    L.seed_everything(1, verbose=False)
    module = CaptionModel(str(model), **{"lr": 3e-3, **settings})
    trainer = make_trainer(folder, epochs, callbacks=[StageCallback(folder, 5)], num_sanity_val_steps=0)
    trainer.fit(module, datamodule=Pets(), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt")
    return module


@pytest.fixture(name="model", params=MODELS, scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp(request.param) / "model")


def test_the_captioner_says_what_was_taught(model: Path, tmp_path: Path) -> None:
    pictures = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (10, 100)]
    options: dict[str, Any] = {"captions_per_image": 2, "max_new_tokens": 10, "temperature": 0.1}
    seeds = [[1, 2], [3, 4]]
    before = Captioner(str(model), **options)
    before.load(torch.device("cpu"))
    assert [SENTENCE] * 2 not in before.caption(pictures, seeds)
    module = fitted(model, tmp_path, 25, templates=(SENTENCE,))
    module.export(tmp_path / "model", Pets())
    assert "fine-tuned by diffubias" in (tmp_path / "model" / "README.md").read_text()
    assert not list((tmp_path / "model").rglob("*.bin"))
    after = Captioner(str(tmp_path / "model"), **options)
    after.check()
    after.load(torch.device("cpu"))
    assert after.caption(pictures, seeds) == [[SENTENCE] * 2] * 2


@pytest.mark.parametrize(
    "model",
    [*BARE, *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in BARE)],
    indirect=True,
)
def test_new_words_are_learnt_and_unknown_ones_refused(model: Path, tmp_path: Path) -> None:
    data = Pets()
    data.setup("fit")
    sentence = "the colt, near the wildcolt"
    with pytest.raises(ConfigError, match=r"model\.new_words: \S+ cannot write .*: ,, colt, wildcolt; name them"):
        CaptionModel(str(model), templates=(sentence,)).check_fit(data)
    with pytest.raises(ConfigError, match=r"cannot write .*: wildcolt; name them"):
        CaptionModel(str(model), templates=(sentence,), new_words=("colt", ",")).check_fit(data)
    module = fitted(model, tmp_path, 25, templates=(sentence,), new_words=("colt", "wildcolt", ",", "dog"))
    module.export(tmp_path / "model", data)
    after = Captioner(str(tmp_path / "model"), max_new_tokens=10, temperature=0.1, captions_per_image=1)
    after.load(torch.device("cpu"))
    (caption,) = after.caption([Image.new("RGB", (20, 20))], [[1]])
    assert "".join(caption).replace(" ", "") == sentence.replace(" ", "")


def test_few_unknown_words_are_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_models.save_vision_encoder_decoder(tmp_path / "model")
    known = [f"the {first} near the {second}" for first in tiny_models.WORDS[:12] for second in tiny_models.WORDS[:12]]
    data = Pets()
    data.setup("fit")
    with caplog.at_level("INFO", "diffubias"):
        CaptionModel(str(model), templates=(*known, "the colt")).check_fit(data)
    assert "cannot write these words of the texts: colt (1 of 145 texts)" in caplog.text
    assert '["colt"]' in caplog.text


def test_only_the_text_is_learnt(model: Path) -> None:
    """Neither the prompt nor padding nor pictures count; the end of the sentence does."""
    module = CaptionModel(str(model))
    module.configure_model()
    images = [torch.zeros(3, 32, 32, dtype=torch.uint8)] * 2
    inputs = module._reader.training_inputs(images, ["the dog", SENTENCE])
    labels = inputs["labels"]
    tokenizer = module._reader.tokenizer
    taught = [tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in labels]
    assert taught == ["the dog", SENTENCE]
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    assert all(row[row >= 0][-1] == end for row in labels)
    assert (labels == -100).any()
    assert module.network is not None
    loss = module.network(**inputs).loss
    loss.backward()
    assert loss.isfinite()


def test_a_text_ends_once(model: Path) -> None:
    for own, text in ((str(model), SENTENCE), ("assets/miniature/captioner", "a photo of a star")):  # it ends by itself
        module = CaptionModel(own)
        module.configure_model()
        labels = module._reader.training_inputs([torch.zeros(3, 32, 32, dtype=torch.uint8)], [text])["labels"]
        tokenizer = module._reader.tokenizer
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        assert (labels == end).sum() == 1


def test_texts_name_class_and_bias(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    module = CaptionModel(str(model), templates=("a {class} on {bias}", "the {class}"))
    module.configure_model()
    original = module._reader.training_inputs
    labels: list[int] = []

    class Labels(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
            labels.extend(batch["label"].tolist())

    def listen(images: Any, texts: Any) -> dict[str, Tensor]:
        assert all(image.dtype == torch.uint8 and image.shape == (3, 16, 16) for image in images)
        seen.extend((text, len(images)) for text in texts)
        return original(images, texts)

    monkeypatch.setattr(module._reader, "training_inputs", listen)
    make_trainer(tmp_path, 1, callbacks=[Labels()], limit_val_batches=0).fit(module, datamodule=Pets())
    texts = [text for text, _ in seen]
    assert len(texts) == 34
    names, grounds = Pets.class_names, Pets.bias_names
    for text, label in zip(texts, labels, strict=True):
        assert text == f"the {names[label]}" or text in {f"a {names[label]} on {ground}" for ground in grounds}
    assert {text.split()[0] for text in texts} == {"a", "the"}


def test_texts_of_the_data_are_learnt_where_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Described(augment="none")
    data.setup("fit")
    words = {
        word
        for split in ("train", "val")
        for own in data.split_texts(split) or ()
        for text in own
        for word in text.split()
    }
    model = tiny_models.save_vision_encoder_decoder(tmp_path / "model")
    module = CaptionModel(str(model), templates=("the {class}",), new_words=("a", "b", "c", *sorted(words)))
    module.configure_model()
    original = module._reader.training_inputs
    seen: list[tuple[Any, str]] = []

    def listen(images: Any, texts: Any) -> dict[str, Tensor]:
        seen.extend(zip(images, texts, strict=True))
        return original(images, texts)

    monkeypatch.setattr(module._reader, "training_inputs", listen)
    make_trainer(tmp_path, 3).fit(module, datamodule=data)
    own = [(image, text) for image, text in seen if not text.startswith("the ")]
    assert 0.3 < len(own) / len(seen) < 0.7
    assert all(text in two_texts(image.numpy()) for image, text in own)
    assert {text.split()[0] for _, text in own} == {"sum", "in"}


def test_a_broken_off_fit_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    model = tiny_models.save_vision_encoder_decoder(tmp_path / "model")
    whole = fitted(model, tmp_path / "whole", 2, new_words=("colt",))
    fitted(model, tmp_path / "half", 1, new_words=("colt",))
    (tmp_path / "half" / "fit_done").unlink()
    rest = fitted(model, tmp_path / "half", 2, tmp_path / "half" / "end.ckpt", new_words=("colt",))
    for (name, first), second in zip(whole.named_parameters(), rest.parameters(), strict=True):
        assert torch.equal(first, second), name
    with pytest.raises(ConfigError, match=r"the checkpoint has model\.model"):
        CaptionModel("other/model").on_load_checkpoint(torch.load(tmp_path / "half" / "end.ckpt", weights_only=True))


def test_the_vision_part_may_stay_as_it_is(model: Path, tmp_path: Path) -> None:
    first = CaptionModel(str(model))
    first.configure_model()
    module = fitted(model, tmp_path, 1, freeze_vision=True)
    pairs = zip(first.named_parameters(), module.parameters(), strict=True)
    changed = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert changed
    assert not any("vision" in name or "network.encoder." in name for name in changed)


def all_learn(model: Path) -> bool:
    """Whether everything that may be learnt gets a gradient, for which DistributedDataParallel waits."""
    module = CaptionModel(str(model))
    module.configure_model()
    images = [torch.zeros(3, 32, 32, dtype=torch.uint8)] * 2
    assert module.network is not None
    module.network(**module._reader.training_inputs(images, ["the dog", SENTENCE])).loss.backward()
    return all(own.grad is not None for own in module.network.parameters() if own.requires_grad)


def test_all_that_may_be_learnt_is_learnt(model: Path, tmp_path: Path) -> None:
    assert all_learn(model)
    if model.parent.name.startswith("llava"):  # as the released ones, it may read the last layer but one
        changed = Path(shutil.copytree(model, tmp_path / "model"))
        config = json.loads((changed / "config.json").read_text())
        (changed / "config.json").write_text(json.dumps({**config, "vision_feature_layer": -2}))
        assert all_learn(changed)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.templates is empty"):
        CaptionModel("m", templates=())
    with pytest.raises(ConfigError, match=r"model\.model: no folder"):
        CaptionModel("./nowhere").check(Pictures())

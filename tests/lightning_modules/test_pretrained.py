from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from callbacks.synthesis import Captioner, DiffusersGenerator
from lightning_modules.errors import ConfigError
from lightning_modules.pretrained import find_source, pick_dtype
from tests.datamodules.toy import Pictures

CPU = torch.device("cpu")


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    source = find_source("owner/name", "abc", True, "synthesize.generator.model")
    assert (source.local, source.revision, source.local_files_only) == (True, None, True)
    hub = find_source("owner/other", "abc", False, "synthesize.generator.model")
    assert (hub.local, hub.revision, hub.local_files_only) == (False, "abc", True)


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "nowhere", "assets/nowhere"])
def test_a_missing_folder_names_the_key(model: str) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.captioner\.model: no folder"):
        Captioner(model).load(CPU)


def test_a_folder_without_weights_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for part, key in ((Captioner(str(tmp_path)), "captioner"), (DiffusersGenerator(str(tmp_path)), "generator")):
        with pytest.raises(ConfigError, match=rf"synthesize\.{key}\.model: .* holds no weights"):
            part.load(CPU)


def test_a_damaged_folder_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"?")
    for part, key in ((Captioner(str(tmp_path)), "captioner"), (DiffusersGenerator(str(tmp_path)), "generator")):
        with pytest.raises(ConfigError, match=rf"^synthesize\.{key}\.model: .* cannot be loaded") as caught:
            part.load(CPU)
        assert "\n" not in str(caught.value)


def test_a_hub_id_that_is_not_cached_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    for part, key in ((Captioner("no/such"), "captioner"), (DiffusersGenerator("no/such"), "generator")):
        with pytest.raises(ConfigError, match=rf"set synthesize\.{key}\.download=true") as caught:
            part.load(CPU)
        assert "\n" not in str(caught.value)


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    # The hub's own switch for working without a network.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"synthesize\.captioner\.model: no/such .*check the network") as caught:
        Captioner("no/such", download=True).load(CPU)
    assert "\n" not in str(caught.value)


def test_dtypes() -> None:
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("float16", CPU) == torch.float16


def cached(folder: Path, index: str, weights: bytes | None) -> Path:
    """Lay out a hub's cache that holds ``owner/name``."""
    snapshot = folder / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / index).write_text("{}")
    if weights is not None:
        (snapshot / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize(("weights", "works"), [(save({"a": torch.ones(3)}), True), (b"half", False), (None, False)])
def test_the_cache_is_looked_at_before_anything_is_loaded(
    weights: bytes | None, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    captioner, generator = Captioner("owner/name"), DiffusersGenerator("owner/name", None)
    parts: list[tuple[Callable[[], None], str]] = [
        (captioner.check, "config.json"),
        (lambda: generator.check(None, Pictures()), "model_index.json"),
    ]
    for check, index in parts:
        folder = cached(tmp_path / index, index, weights)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
        if works:
            check()
        else:
            with pytest.raises(
                ConfigError, match=r"is not complete in the local .* cache: set synthesize\.\w+\.download"
            ):
                check()

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from lightning_modules import ConfigError, backbone_names, build_backbone
from lightning_modules.backbones import OWN, find_head

SMALL = ["smallresnet", "resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf"]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_gives_scores(name: str, training: bool) -> None:
    network = build_backbone(name, 7).train(training).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    assert network(image).shape == (2, 7)
    assert find_head(network, 7)[0]


def test_auxiliary_heads_are_gone() -> None:
    network = build_backbone("googlenet", 4).train()
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_small_images_keep_the_resolution_of_the_stem() -> None:
    network = build_backbone("resnet18", 5, small_images=True)
    shapes = []
    network.get_submodule("layer1").register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert shapes == [(2, 64, 32, 32)]


def test_small_resnet_is_small() -> None:
    network = build_backbone("smallresnet", 4, small_images=True)
    assert sum(p.numel() for p in network.parameters()) < 400_000


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_backbone("smallresnet", 4).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"backbone 'resnet81' is unknown.*resnet18"):
        build_backbone("resnet81", 2)
    assert {"smallresnet", "resnet18", "vit_b_16"} <= set(backbone_names())


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "quantized_resnet18", "r3d_18"])
def test_models_of_other_tasks_are_not_offered(name: str) -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        build_backbone(name, 2)


def test_small_images_for_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="small_images"):
        build_backbone("mobilenet_v3_small", 2, small_images=True)


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights 'BEST'.*IMAGENET1K_V1"):
        build_backbone("resnet18", 2, weights="BEST")
    with pytest.raises(ConfigError, match=r"weights 'DEFAULT'.*smallresnet"):
        build_backbone("smallresnet", 2, weights="DEFAULT")


def test_weights_out_of_reach_name_the_key_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Nothing listens on port 9, so that the download fails at once on every machine.
    for scheme in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match=r"weights 'DEFAULT'.*set weights to null") as error:
        build_backbone("squeezenet1_1", 2, weights="DEFAULT")
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, urllib.error.URLError)


@pytest.mark.parametrize(("name", "head"), [("squeezenet1_1", "classifier.1"), ("mobilenet_v3_small", "classifier.3")])
def test_weights_from_the_cache_are_loaded_and_the_head_is_new(
    name: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = torchvision.models.get_model_weights(name)["DEFAULT"]
    original = torchvision.models.get_model(name)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(original.state_dict(), cache / entry.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    network = build_backbone(name, 5, weights="DEFAULT")

    assert network.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    state = network.state_dict()
    for key, value in original.state_dict().items():
        if not key.startswith(f"{head}."):
            assert torch.equal(value, state[key])
    # The network for a checkpoint's weights has the same shape and needs no file.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    build_backbone(name, 5, weights="checkpoint:DEFAULT").load_state_dict(state)


def test_networks_for_checkpoints_have_the_shape_of_their_weights() -> None:
    with torch.device("meta"):
        network = build_backbone("vit_b_16", 2, weights="checkpoint:IMAGENET1K_SWAG_E2E_V1")
    assert network.state_dict()["encoder.pos_embedding"].shape == (1, (384 // 16) ** 2 + 1, 768)
    with pytest.raises(ConfigError, match="weights 'IMAGENET1K_FEATURES' do not exist"):
        build_backbone("vgg16", 2, weights="IMAGENET1K_FEATURES")


def test_a_network_without_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer with 3 outputs"):
        find_head(nn.Sequential(nn.Linear(4, 2)), 3)


def test_a_hidden_layer_as_wide_as_there_are_classes_is_not_taken_for_the_head() -> None:
    assert find_head(build_backbone("mlp", 10, hidden=[10, 10]), 10)[0] == "head"


def test_arguments_for_networks_of_torchvision_are_refused() -> None:
    with pytest.raises(ConfigError, match="backbone_args depth, hidden mean nothing to 'resnet18': leave them out"):
        build_backbone("resnet18", 2, hidden=[3], depth=3)


@pytest.mark.parametrize("name", OWN)
def test_weights_for_our_own_networks_are_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"weights 'DEFAULT' do not exist for backbone '{name}': set weights to null"
    ):
        build_backbone(name, 2, weights="DEFAULT")
    build_backbone(name, 2, weights="checkpoint:DEFAULT")

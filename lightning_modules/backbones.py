"""Networks by name: every classification model of torchvision, and a small residual network for 32 pixels."""

import difflib
import re
import urllib.error
from typing import Any

import torchvision
from torch import Tensor, nn

from .errors import ConfigError

SMALLRESNET = "smallresnet"
# A checkpoint brings its own weights: this prefix says which pretrained weights they once came from, and loads none.
FROM_CHECKPOINT = "checkpoint:"

_RESNET = re.compile(r"(wide_)?resne(x)?t\d")


class SmallResNet(nn.Module):
    """A 3x3 stem and three residual blocks of 32, 64 and 128 channels, for images of about 32 pixels.

    The stem has stride 1 and no pooling and every block halves the side, so that 32 pixels end as 4 x 4 features.
    """

    def __init__(self, num_classes: int) -> None:
        """Build it for num_classes classes, with random weights."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(_Block(32, 32), _Block(32, 64), _Block(64, 128))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of images [B, 3, H, W]."""
        features: Tensor = self.pool(self.blocks(self.stem(image))).flatten(1)
        scores: Tensor = self.head(features)
        return scores


class _Block(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, beside a 1x1 convolution (He et al., CVPR 2016)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.skip = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride=2, bias=False), nn.BatchNorm2d(width_out))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.body(x) + self.skip(x))
        return y


def backbone_names() -> list[str]:
    """Names that :func:`build_backbone` knows, sorted."""
    return sorted([SMALLRESNET, *torchvision.models.list_models(module=torchvision.models)])


def build_backbone(name: str, num_classes: int, weights: str | None = None, small_images: bool = False) -> nn.Module:
    """Build a classifier by name.

    Args:
        name: ``smallresnet`` or the name of a classification model of torchvision, such as ``resnet18``.
        num_classes: number of classes C.
        weights: None for random weights, or a name torchvision knows, such as ``DEFAULT`` or ``IMAGENET1K_V1``: these
            are loaded (from torch's cache or the network) and the head is replaced by a new one. With the prefix
            ``checkpoint:`` the network is built for such weights without loading them.
        small_images: ResNet family only: a new 3x3 stem with stride 1 and no max-pooling, for images under 100 pixels.

    Returns:
        A network from images [B, 3, H, W] to scores [B, C], in training as in evaluation.

    Raises:
        ConfigError: a name is unknown, a combination is impossible, or the weights cannot be loaded.
    """
    if name not in backbone_names():
        near = difflib.get_close_matches(name, backbone_names(), n=4) or [SMALLRESNET, "resnet18", "resnet50"]
        raise ConfigError(f"backbone '{name}' is unknown: choose a torchvision classifier, such as {', '.join(near)}.")
    if name == SMALLRESNET:
        if weights is not None:
            raise ConfigError(f"weights '{weights}' do not exist for backbone '{name}': set weights to null.")
        return SmallResNet(num_classes)
    if small_images and not _RESNET.match(name):
        raise ConfigError(
            f"small_images works with the ResNet family only, not with backbone '{name}': set it to false."
        )
    network: Any = (
        _plain(name, num_classes, weights) if _loads_nothing(weights) else _pretrained(name, num_classes, weights)
    )
    # Some models add auxiliary heads while training and then answer with a tuple.
    if hasattr(network, "aux_logits"):
        network.aux_logits = False
        for aux in {"aux1", "aux2", "AuxLogits"} & set(dict(network.named_children())):
            setattr(network, aux, None)
    if small_images:
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        network.conv1, network.maxpool = stem, nn.Identity()
    built: nn.Module = network
    return built


def find_head(network: nn.Module, num_classes: int) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the last layer with num_classes outputs: linear, or a convolution in SqueezeNet.

    Raises:
        ConfigError: the network has no such layer.
    """
    for name, module in reversed(list(network.named_modules())):
        if isinstance(module, nn.Linear) and module.out_features == num_classes:
            return name, module
        if isinstance(module, nn.Conv2d) and module.out_channels == num_classes:
            return name, module
    raise ConfigError(f"backbone {type(network).__name__} has no layer with {num_classes} outputs: choose another.")


def _loads_nothing(weights: str | None) -> bool:
    return weights is None or weights.startswith(FROM_CHECKPOINT)


def _plain(name: str, num_classes: int, weights: str | None) -> nn.Module:
    """The architecture, exactly as it would be with the weights, but with random values."""
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Both rescale their input only with pretrained weights by default, which a checkpoint could not show.
        extra = {"transform_input": True, "init_weights": True}
    if weights is not None and name.startswith("vit_"):
        # Some weights of vision transformers belong to larger images, and so to more position embeddings.
        extra = {"image_size": _weights_entry(name, weights.removeprefix(FROM_CHECKPOINT)).meta["min_size"][0]}
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
    return network


def _pretrained(name: str, num_classes: int, weights: str | None) -> nn.Module:
    entry = _weights_entry(name, weights or "")
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=entry, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"weights '{weights}' of backbone '{name}' could not be loaded ({why}): put the file of {entry.url} "
            "into torch's cache (TORCH_HOME/hub/checkpoints) or set weights to null."
        ) from error
    path, head = find_head(network, len(entry.meta["categories"]))
    new: nn.Module
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    else:
        new = nn.Conv2d(head.in_channels, num_classes, kernel_size=1)
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
    return network


def _weights_entry(name: str, weights: str) -> Any:
    members = torchvision.models.get_model_weights(name).__members__
    # Weights without categories have no usable classifier: those of vgg16 are not numbers.
    entries = {key: entry for key, entry in members.items() if entry.meta["categories"]}
    if weights not in entries:
        known = ", ".join(entries)
        raise ConfigError(f"weights '{weights}' do not exist for backbone '{name}': choose one of {known}, or null.")
    return entries[weights]

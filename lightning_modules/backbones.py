"""Networks by name: every classification model of torchvision, and the small ones of the field's own code."""

import difflib
import inspect
import re
import urllib.error
from typing import Any

import torchvision
from torch import Tensor, nn

from .errors import ConfigError
from .networks import MLP, BagNet18, ResNet20, SimpleConv, SmallResNet

OWN: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "resnet20": ResNet20,
    "smallresnet": SmallResNet,
    "simpleconv": SimpleConv,
    "bagnet18": BagNet18,
}
# A checkpoint brings its own weights: this prefix says which pretrained weights they once came from, and loads none.
FROM_CHECKPOINT = "checkpoint:"

_RESNET = re.compile(r"(wide_)?resne(x)?t\d")


def backbone_names() -> list[str]:
    """Names that :func:`build_backbone` knows, sorted."""
    return sorted([*OWN, *torchvision.models.list_models(module=torchvision.models)])


def build_backbone(
    name: str, num_classes: int, weights: str | None = None, small_images: bool = False, **args: Any
) -> nn.Module:
    """Build a classifier by name.

    Args:
        name: one of ``OWN``, or the name of a classification model of torchvision, such as ``resnet18``.
        num_classes: number of classes C.
        weights: None for random weights, or a name torchvision knows, such as ``DEFAULT`` or ``IMAGENET1K_V1``: these
            are loaded (from torch's cache or the network) and the head is replaced by a new one. With the prefix
            ``checkpoint:`` the network is built for such weights without loading them.
        small_images: ResNet family only: a new 3x3 stem with stride 1 and no max-pooling, for images under 100 pixels.
        **args: further arguments of our own networks.

    Returns:
        A network from images [B, 3, H, W] to scores [B, C], in training as in evaluation.

    Raises:
        ConfigError: a name is unknown, a combination is impossible, or the weights cannot be loaded.
    """
    if name not in backbone_names():
        near = difflib.get_close_matches(name, backbone_names(), n=4) or ["smallresnet", "resnet18", "resnet50"]
        raise ConfigError(f"backbone '{name}' is unknown: choose a torchvision classifier, such as {', '.join(near)}.")
    if name in OWN:
        return _own(name, num_classes, weights, args)
    if args:
        raise ConfigError(f"backbone_args {', '.join(sorted(args))} mean nothing to '{name}': leave them out.")
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


def _own(name: str, num_classes: int, weights: str | None, args: dict[str, Any]) -> nn.Module:
    if not _loads_nothing(weights):
        raise ConfigError(f"weights '{weights}' do not exist for backbone '{name}': set weights to null.")
    known = [parameter for parameter in inspect.signature(OWN[name]).parameters if parameter != "num_classes"]
    if unknown := sorted(set(args) - set(known)):
        raise ConfigError(
            f"backbone_args {', '.join(unknown)} mean nothing to '{name}': it knows {', '.join(known) or 'none'}."
        )
    return OWN[name](num_classes=num_classes, **args)


def scores_and_features(network: nn.Module, image: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores [B, C] and what the last layer sees [B, D] of normalised images [B, 3, H, W], in one pass."""
    seen: list[Tensor] = []
    _, head = find_head(network, num_classes)
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits: Tensor = network(image)
    finally:
        handle.remove()
    return logits, seen[0] if seen[0].ndim == 2 else seen[0].mean(dim=(2, 3))


def split_head(network: nn.Module, num_classes: int) -> tuple[nn.Module, int]:
    """Take the last layer off a classifier.

    Args:
        network: from images [B, 3, H, W] to scores [B, C]; it is changed.
        num_classes: number of classes C.

    Returns:
        The network, now from images to features [B, D], and D.

    Raises:
        ConfigError: the last layer is not linear.
    """
    path, head = find_head(network, num_classes)
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"backbone {type(network).__name__} has no linear last layer: choose another.")
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network, head.in_features


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

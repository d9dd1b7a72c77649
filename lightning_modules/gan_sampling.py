"""Generators of GANs: drawing with them, and the folders in which they are kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .fastgan_networks import FastGANGenerator
from .stylegan2_networks import StyleGAN2Generator

NETWORKS: dict[str, Any] = {kind.__name__: kind for kind in (FastGANGenerator, StyleGAN2Generator)}
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def random_inputs(
    network: Any, generators: Sequence[torch.Generator], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """What one image each is drawn from: latents [B, latent], and noise [B, 1, S, S] for every place that takes some.

    Args:
        network: a generator of ``NETWORKS``.
        generators: random numbers of each image, on the CPU.
        device: where the result goes.
    """
    latents = torch.stack([torch.randn(network.latent, generator=own) for own in generators])
    noise = [torch.stack([torch.randn(*shape, generator=own) for own in generators]) for shape in network.noise_shapes]
    return latents.to(device), [own.to(device) for own in noise]


@torch.inference_mode()
def draw(network: Any, labels: Tensor, generators: Sequence[torch.Generator], **options: Any) -> Tensor:
    """Draw one image a label, each from its own random numbers.

    Args:
        network: a generator of ``NETWORKS`` in evaluation mode.
        labels: classes, int64 [B], on the device of the network.
        generators: random numbers of each image, on the CPU.
        options: what the network's ``forward`` takes besides.

    Returns:
        Images float32 [B, 3, H, W] in [0, 1]; values that are not numbers stay.
    """
    latents, noise = random_inputs(network, generators, labels.device)
    return to_unit(network(latents, labels, noise, **options))


def to_unit(image: Tensor) -> Tensor:
    """Turn values in [-1, 1] into values in [0, 1]; what lies outside is cut."""
    return (image.float() / 2 + 0.5).clamp(0, 1)


def settle_statistics(network: Any, batches: int = 16, batch_size: int = 64) -> None:
    """Measure the statistics of batch normalisation anew, from images of the network's own.

    Averaged weights do not go with the statistics of the weights that were trained.

    Args:
        network: a generator of ``NETWORKS``; it is in evaluation mode afterwards.
        batches: how many batches to draw.
        batch_size: images of a batch.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    device = next(network.parameters()).device
    labels = torch.arange(batch_size, device=device) % network.settings["num_classes"]
    network.train()
    for number in range(batches if norms else 0):
        generators = [torch.Generator().manual_seed(number * batch_size + place) for place in range(batch_size)]
        with torch.no_grad():
            network(*_with_label(random_inputs(network, generators, device), labels))
    network.eval()


def _with_label(inputs: tuple[Tensor, list[Tensor]], labels: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    return inputs[0], labels, inputs[1]


def save_network(network: Any, folder: Path, prefix: str = "") -> None:
    """Write a generator: its kind and settings as ``config.json``, its weights as ``model.safetensors``.

    Args:
        network: a generator of ``NETWORKS``.
        folder: where to; it may hold others with another prefix.
        prefix: what the names of the files begin with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"network": type(network).__name__, "settings": network.settings}
    (folder / f"{prefix}{CONFIG}").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / f"{prefix}{WEIGHTS}")


def load_network(folder: Path, prefix: str = "") -> Any:
    """Read a generator that :func:`save_network` has written; it is on the CPU and in evaluation mode.

    Raises:
        OSError: A file is missing or damaged.
        ValueError: The folder holds another kind of model.
    """
    network = _build(folder, prefix)
    network.load_state_dict(load_file(folder / f"{prefix}{WEIGHTS}"))
    return network.requires_grad_(False).eval()


def check_network(folder: Path, prefix: str = "", kinds: Sequence[type[nn.Module]] = tuple(NETWORKS.values())) -> None:
    """Look whether :func:`load_network` can read a generator, without reading its weights.

    Args:
        folder: where :func:`save_network` has written it.
        prefix: what the names of the files begin with.
        kinds: the networks that will do.

    Raises:
        OSError: A file is missing.
        ValueError: It is another kind of network, or its weights are those of another one.
    """
    with torch.device("meta"):
        network: nn.Module = _build(folder, prefix)
    if not isinstance(network, tuple(kinds)):
        raise ValueError(f"{prefix}{CONFIG} names {type(network).__name__}, not {kinds[0].__name__}")
    with safe_open(folder / f"{prefix}{WEIGHTS}", "pt") as weights:
        shapes = {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    if shapes != {name: list(own.shape) for name, own in network.state_dict().items()}:
        raise ValueError(f"{prefix}{WEIGHTS} are not the weights of the network in {prefix}{CONFIG}")


def _build(folder: Path, prefix: str) -> Any:
    """Make the network that a folder describes, with fresh weights."""
    config = json.loads((folder / f"{prefix}{CONFIG}").read_text(encoding="utf-8"))
    try:
        make, settings = NETWORKS[config["network"]], config["settings"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{prefix}{CONFIG} describes no generator of a GAN ({', '.join(NETWORKS)})") from error
    try:
        return make(**settings)
    except TypeError as error:
        raise ValueError(f"{prefix}{CONFIG} does not fit {config['network']}: {error}") from error

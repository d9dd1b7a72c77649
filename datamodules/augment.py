"""From uint8 pictures to the normalised batch; random changes are a pure function of one integer per sample."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Augment = Literal["none", "flip", "crop_flip", "resized_crop_flip"]
Padding = Literal["black", "mirror"]

PADDING = 4
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RATIO = (3 / 4, 4 / 3)
_GOLDEN = 0x9E3779B97F4A7C15
_WRAP = 0xFFFFFFFFFFFFFFFF


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): a bijection that scatters neighbouring integers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def sample_keys(seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One key per drawn sample, from which all its random numbers follow.

    Args:
        seed: Seed of the run.
        epoch: Epoch number, from 0.
        positions: Places in the epoch's global order, shape [N]; the same for every number of ranks.

    Returns:
        Keys, shape [N].
    """
    start = np.array([seed & _WRAP], dtype=np.uint64)
    stream = _mix(_mix(start + np.uint64(_GOLDEN)) + np.uint64(epoch & _WRAP))
    return _mix(stream + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def uniforms(keys: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Random numbers of each sample.

    Args:
        keys: Keys of the samples, shape [B].
        count: Numbers per sample.

    Returns:
        Uniform numbers in [0, 1), shape [B, count].
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return (_mix(keys[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Transform:
    """Makes the network's input of a batch of pictures.

    The random changes are those of the field's code: `crop_flip` pads by 4 pixels and crops at a random place (Kakao's
    code; DiffuBias, arXiv 2411.16079, Table 6), `resized_crop_flip` cuts a random box and enlarges it (DiffuBias'
    released code); both flip a picture left to right half of the time, which is all that `flip` does.

    Args:
        mean: Mean of each channel, in units of the range 0 to 1.
        std: Standard deviation of each channel, in the same units.
        augment: The random changes made in training.
        crop_padding: What `crop_flip` pads with: black, as the code of the field does, or the mirrored picture.
        crop_scale: Least and greatest share of the area that the box of `resized_crop_flip` has.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment = "none",
        crop_padding: Padding = "black",
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ) -> None:
        self.augment = augment
        self.crop_padding: Padding = crop_padding
        self.crop_scale = crop_scale
        # (x / 255 - mean) / std written as shift + x * scale, one pass over the pixels
        self.scale = 1 / (torch.tensor(std, dtype=torch.float32) * 255)
        self.shift = -torch.tensor(mean, dtype=torch.float32) * 255 * self.scale

    def __call__(self, images: NDArray[np.uint8], keys: NDArray[np.uint64] | None = None) -> Tensor:
        """Augments and normalises.

        Args:
            images: Pictures, shape [B, H, W, 3], values 0 to 255.
            keys: Keys of the samples, shape [B]; without them nothing is random (evaluation).

        Returns:
            float32, shape [B, 3, H, W], normalised, in channels-last memory format.
        """
        mode: Augment = "none" if keys is None else self.augment
        if keys is not None and mode in ("flip", "crop_flip"):
            images = _shift_flip(images, keys, PADDING if mode == "crop_flip" else 0, self.crop_padding)
        # constants as long as a row of pixels: several times faster than broadcasting three numbers
        width = images.shape[2]
        pixels = torch.from_numpy(images).to(torch.float32).view(-1, width * 3)
        torch.addcmul(self.shift.repeat(width), pixels, self.scale.repeat(width), out=pixels)
        batch = pixels.view(images.shape).permute(0, 3, 1, 2)
        if keys is not None and mode == "resized_crop_flip":
            batch = _resized_crop_flip(batch, keys, self.crop_scale)
        return batch


def _shift_flip(
    images: NDArray[np.uint8], keys: NDArray[np.uint64], padding: int, crop_padding: Padding
) -> NDArray[np.uint8]:
    height, width = images.shape[1:3]
    # three numbers always, so that a picture is flipped alike with and without the crop
    draws = uniforms(keys, 3)
    flips = (draws[:, 0] < 0.5).tolist()
    tops = (draws[:, 1] * (2 * padding + 1)).astype(np.int64).tolist()
    lefts = (draws[:, 2] * (2 * padding + 1)).astype(np.int64).tolist()
    if padding:
        border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        images = np.pad(images, border) if crop_padding == "black" else np.pad(images, border, mode="reflect")
    out = np.empty((len(images), height, width, 3), dtype=np.uint8)
    # slices of whole rows: faster than one gather by pixel positions
    for source, target, flip, top, left in zip(images, out, flips, tops, lefts, strict=True):
        crop = source[top : top + height, left : left + width]
        # torch mirrors uint8 pixels ten times faster than a reversed slice of NumPy is copied
        target[:] = torch.from_numpy(crop).flip(1).numpy() if flip else crop
    return out


def _resized_crop_flip(batch: Tensor, keys: NDArray[np.uint64], scale: tuple[float, float]) -> Tensor:
    draws = uniforms(keys, 5)
    area = scale[0] + draws[:, 1] * (scale[1] - scale[0])
    ratio = np.exp(math.log(RATIO[0]) + draws[:, 2] * math.log(RATIO[1] / RATIO[0]))
    # a side that would leave the picture is cut to the picture instead of being drawn anew
    width = np.sqrt(area * ratio).clip(max=1.0)
    height = np.sqrt(area / ratio).clip(max=1.0)
    # in grid_sample's coordinates the picture spans -1 to 1, so a box of width w may be centred at -(1-w) to 1-w
    theta = np.zeros((len(keys), 2, 3), dtype=np.float32)
    theta[:, 0, 0] = np.where(draws[:, 0] < 0.5, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (2 * draws[:, 3] - 1) * (1 - width)
    theta[:, 1, 2] = (2 * draws[:, 4] - 1) * (1 - height)
    grid = F.affine_grid(torch.from_numpy(theta), list(batch.shape), align_corners=False)
    sampled = F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.contiguous(memory_format=torch.channels_last)

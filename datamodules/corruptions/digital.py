"""What image editing and storing does: colours, contrast, compression, resolution, geometry."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from datamodules.corruptions.pixels import Picture, to_bytes, to_float


def brightness(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Adds 0.05 to 0.3 to the value of HSV; hue and saturation stay."""
    amount = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    pixels = to_float(picture)
    value = pixels.max(axis=2, keepdims=True)
    brighter = (value + amount).clip(0, 1)
    # equal hue and saturation: the channels keep their proportions; black has none and becomes grey
    return to_bytes(np.where(value > 0, pixels * (brighter / np.where(value > 0, value, 1)), brighter))


def saturate(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Multiplies the saturation of HSV by 0.1 to 2.5 and adds up to 0.2; hue and value stay."""
    factor, amount = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    pixels = to_float(picture)
    value = pixels.max(axis=2, keepdims=True)
    # how far each channel lies below the value: in proportion to the saturation at equal hue and value
    depth = value - pixels
    spread = depth.max(axis=2, keepdims=True)
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    wanted = (saturation * factor + amount).clip(0, 1) * value
    # grey has hue 0, which is red, in the HSV of the code that made CIFAR-10-C
    red = np.array([0.0, 1.0, 1.0])
    relative = np.where(spread > 0, depth / np.where(spread > 0, spread, 1), red)
    return to_bytes(value - wanted * relative)


def contrast(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Multiplies the distance from each channel's mean by 0.75 to 0.15."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    pixels = to_float(picture)
    mean = pixels.mean(axis=(0, 1))
    return to_bytes((pixels - mean) * factor + mean)


def jpeg(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Stores as JPEG of quality 80 to 40."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def pixelate(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Reduces to 0.95 to 0.65 of the side and enlarges again, both with a box filter."""
    factor = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def elastic(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """A random affine map, then random displacements that vary smoothly."""
    side = len(picture)
    amount, smoothness, affine = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    near, far = side // 2 - side // 3, side // 2 + side // 3
    corners = np.array([[far, far], [near, far], [near, near]], dtype=np.float64)
    moved = corners + rng.uniform(-affine * side, affine * side, size=corners.shape)
    # rows (y, x, 1) @ solution = (y, x): where each output pixel comes from
    inverse = np.linalg.solve(np.c_[moved, np.ones(3)], corners)
    shifts = rng.uniform(-1, 1, size=(2, side, side))
    shifts = ndimage.gaussian_filter(shifts, smoothness * side, mode="reflect", truncate=3, axes=(1, 2)) * amount * side
    grid = np.mgrid[:side, :side].astype(np.float64)
    plain = (np.moveaxis(grid, 0, -1) @ inverse[:2] + inverse[2]).transpose(2, 0, 1)
    channels = []
    for channel in np.moveaxis(to_float(picture), 2, 0):
        mapped = ndimage.map_coordinates(channel, plain, order=1, mode="mirror")
        channels.append(ndimage.map_coordinates(mapped, grid + shifts, order=1, mode="reflect"))
    return to_bytes(np.stack(channels, axis=2))

"""What a trained module says of the training images."""

from collections.abc import Callable, Iterable

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from tqdm import tqdm

from .classifier import Batch, Classifier
from .distributed import assembled, rank, world_size


def evaluated(
    module: nn.Module, loader: Iterable[Batch], device: torch.device, value: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Run a module over batches in evaluation mode and outside autocast; its mode is restored.

    Args:
        module: maps images [B, 3, H, W] to scores [B, C]; it stands on ``device``.
        loader: batches with ``image``, ``label`` and ``index``.
        device: where to compute.
        value: what is wanted, [B, ...], of scores float32 [B, C] and labels [B].

    Returns:
        The values of all samples [M, ...] and their indices int64 [M], on the CPU, in the order of the loader.
    """
    was_training = module.training
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    values: list[Tensor] = []
    index: list[Tensor] = []
    module.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for batch in loader:
                image = move_data_to_device(batch["image"], device).to(dtype)
                values.append(value(module(image).float(), move_data_to_device(batch["label"], device)))
                index.append(batch["index"])
    finally:
        module.train(was_training)
    if not values:
        return torch.empty(0), torch.empty(0, dtype=torch.int64)
    return torch.cat(values).cpu(), torch.cat(index).cpu()


def training_logits(module: Classifier, helper: Classifier) -> Tensor:
    """Scores of the whole real training set under a helper, without augmentation; a collective operation.

    Args:
        module: the module in training, whose data and device are used.
        helper: a trained module; it is on the CPU again afterwards.

    Returns:
        Scores float32 [N, C] on the CPU, the same in every process.
    """
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    loader = data.mining_dataloader(rank(), world_size())
    hidden = not module.trainer.is_global_zero or module.trainer.progress_bar_callback is None
    shown = tqdm(loader, desc="scoring", unit="batch", leave=False, disable=hidden)
    logits, index = evaluated(helper.to(module.device).eval(), shown, module.device, lambda scores, _: scores)
    helper.to("cpu")
    return assembled(index, logits, len(data.train_labels()))

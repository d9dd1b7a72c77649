"""What a trained module of an earlier stage says of the training images."""

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor
from tqdm import tqdm

from .classifier import Classifier
from .distributed import assembled, rank, world_size


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
    helper = helper.to(module.device).eval()
    hidden = not module.trainer.is_global_zero or module.trainer.progress_bar_callback is None
    index: list[Tensor] = []
    logits: list[Tensor] = []
    with torch.inference_mode(), torch.autocast(module.device.type, enabled=False):
        for batch in tqdm(loader, desc="scoring", unit="batch", leave=False, disable=hidden):
            image = move_data_to_device(batch["image"], module.device)
            logits.append(helper(image).float())
            index.append(batch["index"])
    helper.to("cpu")
    return assembled(torch.cat(index), torch.cat(logits).cpu(), len(data.train_labels()))

"""The mining step against a bare forward pass over the same images.

    python -m benchmarks.mining

Both read the same loader of the miniature's training set and compute in float32 in inference mode. ``mine_losses`` adds
the losses; ``write_selection`` adds the ranking and the file ``selection.json`` as well.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.measuring import RESULTS, Row, compare, in_turns, report, seconds
from callbacks.synthesis.miner import LossMiner, mine_losses
from callbacks.synthesis.mining import write_selection
from callbacks.synthesis.progress import Progress
from datamodules import Miniature
from lightning_modules import BiasedModule


def main() -> None:
    """Mine with the miniature's biased network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="Passes of each.")
    parser.add_argument("--images", type=int, default=4000, help="Images to mine from.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    data = Miniature(train_size=arguments.images, seed=1)
    data.setup("fit")
    module = BiasedModule(num_classes=data.num_classes, backbone="smallresnet")
    module.configure_model()
    module.eval()
    cpu = torch.device("cpu")

    def bare() -> None:
        with torch.inference_mode():
            for batch in data.mining_dataloader(0, 1):
                module(batch["image"])

    def whole_step() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_selection(Path(folder), module, data, LossMiner(), 25, cpu, Progress(enabled=False))

    ways = {
        "bare forward pass": bare,
        "mine_losses": lambda: mine_losses(module, data.mining_dataloader(0, 1), cpu),
        "write_selection": whole_step,
    }
    laps = in_turns(ways, arguments.rounds)
    rows = [Row("bare forward pass", arguments.images / seconds(laps["bare forward pass"]), "images/s")]
    for name in ("mine_losses", "write_selection"):
        ratio, spread = compare(laps[name], laps["bare forward pass"])
        rows.append(Row(f"{name} ({spread})", arguments.images / seconds(laps[name]), "images/s", ratio, "<= 1.10"))
    report("mining", rows, arguments.folder)


if __name__ == "__main__":
    main()

"""Three texts an image by one batched ``generate`` against one ``generate`` call a text.

    python -m benchmarks.captioning

Both use the miniature's captioner with the settings of configs/miniature.yaml on its training pictures. The calls one
by one are what transformers' own examples do, and draw with its sampler. Models are loaded before the clock starts.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import RESULTS, ROOT, Row, compare, in_turns, report, seconds
from callbacks.synthesis import Captioner
from datamodules import Miniature

TEXTS = 3
TOKENS = 16
TOP_P = 0.9


def main() -> None:
    """Caption the same images in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "assets/miniature/captioner"), help="Folder of the captioner.")
    parser.add_argument("--images", type=int, default=64, help="Images to caption.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 64], help="Images a batch.")
    parser.add_argument("--rounds", type=int, default=5, help="Times that all texts are written, in each way.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    cpu = torch.device("cpu")
    captioner = Captioner(arguments.model, captions_per_image=TEXTS, max_new_tokens=TOKENS, top_p=TOP_P)
    captioner.load(cpu)
    single = Captioner(arguments.model, captions_per_image=1, max_new_tokens=TOKENS, top_p=TOP_P)
    single.load(cpu)
    kinds: tuple[Any, ...] = (AutoModelForImageTextToText, AutoImageProcessor, AutoTokenizer)
    network, processor, tokenizer = (kind.from_pretrained(arguments.model) for kind in kinds)
    network.eval()
    data = Miniature(train_size=max(arguments.images, 8), seed=1)
    data.setup("fit")
    images = [data.source_image(index) for index in range(arguments.images)]
    seeds = [[TEXTS * index + number for number in range(TEXTS)] for index in range(arguments.images)]

    def one_by_one() -> list[list[str]]:
        texts: list[list[str]] = []
        with torch.inference_mode():
            for image in images:
                own: list[str] = []
                for _ in range(TEXTS):
                    pixels = processor(image, return_tensors="pt").pixel_values
                    output = network.generate(
                        pixel_values=pixels, do_sample=True, top_p=TOP_P, top_k=0, max_new_tokens=TOKENS
                    )
                    own.append(tokenizer.decode(output[0], skip_special_tokens=True))
                texts.append(own)
        return texts

    def batched(size: int) -> list[list[str]]:
        starts = range(0, len(images), size)
        return [own for s in starts for own in captioner.caption(images[s : s + size], seeds[s : s + size])]

    ways: dict[str, Callable[[], object]] = {"1": one_by_one}
    ways |= {str(size): partial(batched, size) for size in arguments.batch_sizes}
    laps = in_turns(ways, arguments.rounds)
    count = TEXTS * len(images)
    alone = [
        [single.caption([image], [[seed]])[0][0] for seed in own] for image, own in zip(images, seeds, strict=True)
    ]
    rows = [Row("one call of generate a text", count / seconds(laps["1"]), "texts/s")]
    for size in arguments.batch_sizes:
        factor, spread = compare(laps["1"], laps[str(size)])
        rate = count / seconds(laps[str(size)])
        rows.append(Row(f"Captioner, batches of {size} images ({spread})", rate, "texts/s", factor, ">= 3"))
        equal = sum(a == b for x, y in zip(batched(size), alone, strict=True) for a, b in zip(x, y, strict=True))
        rows.append(Row(f"texts equal to Captioner's own one by one, batches of {size}", 100 * equal / count, "%"))
    report("captioning", rows, arguments.folder)


if __name__ == "__main__":
    main()

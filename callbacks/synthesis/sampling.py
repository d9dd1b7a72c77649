"""Text sampling whose outcome belongs to the caption, not to the batch it happened to be drawn in."""

import torch
from torch import Tensor


class RowSampler:
    """A logits processor that draws each row's next token with that row's own random numbers.

    ``generate`` draws all rows of a batch from one global generator, so that a caption changes with its neighbours.
    Here every row brings its own stream of uniform numbers and inverts its distribution; all other tokens get
    probability 0, so that the draw inside ``generate`` (``do_sample=True``) can only confirm the choice.

    Args:
        seeds: One seed a row, in the order of the expanded batch.
        max_new_tokens: Length of each stream.
        temperature: Divides the logits, > 0.
        top_p: Nucleus: the smallest set of tokens with at least this probability stays (Holtzman et al. 2020).
    """

    def __init__(self, seeds: list[int], max_new_tokens: int, temperature: float, top_p: float) -> None:
        streams = [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.uniform = torch.stack(streams)
        self.temperature = temperature
        self.top_p = top_p
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Replace scores [R, V] by 0 at each row's chosen token and -inf elsewhere."""
        home = scores.device
        if home.type == "mps":  # it has no float64
            scores = scores.cpu()
        # Descending order makes the nucleus a prefix of the cumulated probabilities.
        probability, token = torch.sort(torch.softmax(scores.float() / self.temperature, dim=-1), -1, descending=True)
        cumulated = torch.cumsum(probability.double(), dim=-1)
        outside = cumulated - probability >= self.top_p
        inside_mass = torch.where(outside, 0.0, probability).double().sum(-1, keepdim=True)
        drawn = self.uniform[:, self.step, None].to(scores.device, torch.float64) * inside_mass
        place = torch.searchsorted(cumulated, drawn, right=True)
        # Rounding may point just behind the nucleus: its last token is meant then.
        place = torch.minimum(place, (~outside).sum(-1, keepdim=True) - 1)
        self.step += 1
        chosen = token.gather(-1, place)
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0).to(home)

"""How much harder a training image is for a biased network than for the one that is being debiased."""

import torch
from torch import Tensor

from .distributed import gathered
from .errors import ConfigError
from .exact_buffers import ExactBuffers


class RelativeDifficulty(ExactBuffers):
    """The weights W(x) of "Learning from Failure" (Nam et al., arXiv 2007.02561, equation 2).

    W = b / (b + d + 1e-8), with b and d the running averages of the image's losses under the biased and the debiased
    network: ``average <- decay * average + (1 - decay) * loss``, where the first loss is taken as it is. Their code
    first divides each average by its greatest value over all training images of the class.

    The averages are float32 buffers [2, N] and are in the checkpoint. Where there are several processes, each gives its
    own images and all hold the same averages. They lie sorted by class, so that a maximum is taken over neighbours.
    """

    exact = ("average",)
    average: Tensor
    seen: Tensor
    place: Tensor

    def __init__(self, decay: float = 0.7, class_max: bool = True, epsilon: float = 0.0) -> None:
        """Start without images, see :meth:`arrange`.

        Args:
            decay: share of the old average that is kept, in [0, 1).
            class_max: divide by the greatest average of the class, as the reference code does.
            epsilon: added to that of the biased network; BiasEnsemble's code (arXiv 2205.14594) adds 1e-8.
        """
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(f"model.ema must lie in [0, 1), but is {decay}: set it to 0.7, say.")
        self.decay = decay
        self.class_max = class_max
        self.epsilon = epsilon
        self.lengths: list[int] = []
        self.register_buffer("average", torch.zeros(2, 0))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("place", torch.zeros(0, dtype=torch.int64), persistent=False)

    def resize(self, count: int) -> None:
        """Forget everything and make room for count images."""
        self.average = torch.zeros(2, count, device=self.average.device)
        self.seen = self.seen.new_zeros(count)

    def arrange(self, labels: Tensor, num_classes: int) -> None:
        """Get ready for a training set; averages out of a checkpoint are kept.

        Args:
            labels: classes of all training images, int64 [N]; their order is that of the rows below.
            num_classes: number of classes C.

        Raises:
            ConfigError: the averages of the checkpoint are those of a set of another size.
        """
        if not self.average.shape[1]:
            self.resize(len(labels))
        elif self.average.shape[1] != len(labels):
            raise ConfigError(
                f"the checkpoint has the losses of {self.average.shape[1]} training images, but there are "
                f"{len(labels)}: go on with the data it was trained on."
            )
        order = labels.argsort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(labels)))
        self.place = place.to(self.average.device)
        self.lengths = torch.bincount(labels, minlength=num_classes).tolist()

    @torch.no_grad()
    def forward(self, rows: Tensor, labels: Tensor, biased: Tensor, debiased: Tensor) -> Tensor:
        """Take the losses of a batch and weigh its images.

        Args:
            rows: which images, int64 [B].
            labels: their classes, int64 [B].
            biased: their losses under the biased network, float [B].
            debiased: their losses under the debiased network, float [B].

        Returns:
            W [B], float32 in [0, 1].
        """
        self._update(gathered(rows), gathered(torch.stack((biased, debiased), dim=1).float()).T)
        own = self.average[:, self.place[rows]]
        if self.class_max:
            parts = torch.split(self.average, self.lengths, dim=1)
            greatest = torch.stack([p.amax(1) if p.shape[1] else p.new_ones(2) for p in parts], dim=1)
            greatest[0] += self.epsilon
            # Of a class that has long been learnt perfectly all averages are 0 in the end, and 0 / 0 is no weight.
            own = own / greatest.clamp_min(torch.finfo(torch.float32).tiny)[:, labels]
        return own[0] / (own.sum(dim=0) + 1e-8)

    def _update(self, rows: Tensor, losses: Tensor) -> None:
        place = self.place[rows]
        new = torch.where(self.seen[place], torch.lerp(losses, self.average[:, place], self.decay), losses)
        # The maximum where an image comes twice: the same in every process, whatever the order of writing.
        self.average.scatter_reduce_(1, place.expand(2, -1), new, "amax", include_self=False)
        self.seen[place] = True

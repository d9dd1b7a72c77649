"""Accuracy over everything, over classes and over groups of (label, bias)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

_log = logging.getLogger("diffubias")


@dataclass(frozen=True)
class GroupTable:
    """Counts of every group, as int64 tensors [G] on the CPU; an empty group stands there with count 0.

    Groups are ordered by label, then by bias. Where no bias is known a group is a class and its bias is -1.
    """

    label: Tensor
    bias: Tensor
    count: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> Tensor:
        """Accuracy of every group [G], float32 in [0, 1]; not a number where the group is empty."""
        return self.correct / self.count


class GroupMetrics(Metric):
    """Accuracy, and how evenly it is spread over the classes and over the groups (label, bias).

    A sample is aligned with the bias if its bias is the one that goes with its class (the class's own number unless
    told otherwise), in conflict with it otherwise; bias -1 means unknown. The metric keeps a record of each sample and
    counts a sample that comes twice only once, as it does where a DistributedSampler pads uneven shards by repeating.
    Records stay on the device until :meth:`compute`.

    Values, all float32 scalars in [0, 1]: ``accuracy``, ``worst_class``, and where biases are known ``aligned``,
    ``conflict``, ``worst_group`` (minimum) and ``balanced`` (mean), the latter two over the groups that have samples.
    A value without any sample is left out.
    """

    full_state_update = False
    higher_is_better = True
    records: list[Tensor]

    def __init__(
        self,
        num_classes: int,
        num_biases: int | None = None,
        name: str = "",
        aligned_bias: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        bias_names: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Start without samples.

        Args:
            num_classes: number of classes C.
            num_biases: number of bias attributes B; None takes as many as the samples show.
            name: what the log calls this set of samples.
            aligned_bias: the bias attribute that goes with each class; None takes the class's own number.
            class_names: what the log calls the classes; their numbers where there are no names.
            bias_names: what the log calls the bias attributes, likewise.
            **kwargs: for ``torchmetrics.Metric``.
        """
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.num_biases = num_biases
        self.name = name
        self.class_names = tuple(class_names)
        self.bias_names = tuple(bias_names)
        self.aligned_bias = torch.arange(num_classes) if aligned_bias is None else torch.tensor(aligned_bias)
        self._table: GroupTable | None = None
        self._empty_logged = False
        self.add_state("records", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, label: Tensor, bias: Tensor, index: Tensor) -> None:
        """Take one batch.

        Args:
            logits: scores [B, C].
            label: class numbers [B], int64.
            bias: bias attributes [B], int64, -1 where unknown.
            index: number of each sample in its set [B], int64; samples with a negative one are never taken for doubles.
        """
        correct = (logits.argmax(dim=1) == label).long()
        self.records.append(torch.stack((index, label, bias, correct), dim=1))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the records of all processes; a process without any sample gives none, but takes part."""
        if not self.records:
            self.records.append(torch.empty(0, 4, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """Count; a collective operation where there are several processes.

        Returns:
            Value by name; empty if there was no sample.
        """
        kept = self.records if isinstance(self.records, list) else [self.records]
        records = torch.cat(kept).cpu() if kept else torch.empty(0, 4, dtype=torch.int64)
        label, bias, correct = _without_doubles(records)
        known = bias >= 0
        has_bias = bool(known.any())
        classes = self._count(label, torch.full_like(label, -1), correct, 1)
        if has_bias:
            seen = int(bias.max()) + 1
            groups = self._count(label[known], bias[known], correct[known], max(self.num_biases or 0, seen))
        else:
            groups = classes
        self._table = groups
        if len(label) == 0:
            return {}
        values = {"accuracy": correct.sum() / len(correct), "worst_class": classes.accuracy[classes.count > 0].min()}
        if has_bias:
            aligned = self.aligned_bias[groups.label] == groups.bias
            for name, part in (("aligned", aligned), ("conflict", ~aligned)):
                if (total := groups.count[part].sum()) > 0:
                    values[name] = groups.correct[part].sum() / total
            filled = groups.accuracy[groups.count > 0]
            values |= {"worst_group": filled.min(), "balanced": filled.mean()}
        self._log_empty(groups)
        return {name: value.to(self.device) for name, value in values.items()}

    def groups(self) -> GroupTable:
        """Counts of every group; after :meth:`compute` this needs no other process."""
        self.compute()
        if self._table is None:
            raise RuntimeError("the groups are known only after compute")
        return self._table

    def _count(self, label: Tensor, bias: Tensor, correct: Tensor, width: int) -> GroupTable:
        size = self.num_classes * width
        cell = label * width + bias.clamp(min=0)
        numbers = torch.arange(size)
        bias_of = numbers % width if bool((bias >= 0).any()) else torch.full_like(numbers, -1)
        return GroupTable(
            label=numbers // width,
            bias=bias_of,
            count=torch.bincount(cell, minlength=size),
            correct=torch.bincount(cell[correct > 0], minlength=size),
        )

    def _log_empty(self, groups: GroupTable) -> None:
        empty = (groups.count == 0).nonzero().flatten().tolist()
        if not empty or self._empty_logged:
            return
        self._empty_logged = True
        shown = ", ".join(self._called(int(groups.label[i]), int(groups.bias[i])) for i in empty[:8])
        more = ", ..." if len(empty) > 8 else ""
        kind = "classes" if int(groups.bias[0]) < 0 else "groups (label, bias)"
        _info(
            f"{self.name or 'metrics'}: {len(empty)} of {len(groups.count)} {kind} have no sample and are left out: "
            f"{shown}{more}"
        )

    def _called(self, label: int, bias: int) -> str:
        """What the log calls a group; a class alone where its bias is -1."""
        name = _name(label, self.class_names)
        return name if bias < 0 else f"({name}, {_name(bias, self.bias_names)})"


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


def _without_doubles(records: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Label, bias and correctness [N] of the different samples among the records [M, 4]."""
    order = records[:, 0].argsort(stable=True)
    index, label, bias, correct = records[order].unbind(dim=1)
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    first |= index < 0
    return label[first], bias[first], correct[first]


@rank_zero_only
def _info(message: str) -> None:
    _log.info(message)

"""Buffers that no precision of the Trainer rounds."""

from typing import Any, ClassVar, Self

from torch import nn


class ExactBuffers(nn.Module):
    """A module some of whose buffers follow it to a device but keep their precision.

    ``trainer.precision bf16-true`` casts every buffer, and would round running sums each time that a fit goes on.
    """

    exact: ClassVar[tuple[str, ...]]
    """Names of the buffers."""

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Change the parameters and the other buffers, and move these."""
        kept = {name: getattr(self, name) for name in self.exact}
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self

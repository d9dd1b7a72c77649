"""Progress bars with rate and time left, on rank 0 only."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

from lightning_modules.distributed import rank


@dataclass
class Progress:
    """Whether to show bars, and how.

    Attributes:
        enabled: False where the Trainer has its progress bar switched off.
    """

    enabled: bool = True

    def bar(self, title: str, total: int, unit: str, done: int = 0) -> "Bar":
        """Open a bar.

        Args:
            title: What is going on.
            total: How many units there are.
            unit: Name of one, for the rate.
            done: How many were there already; they do not count for the rate.
        """
        return Bar(title, total, unit, done, self.enabled and rank() == 0)


class Bar:
    """A bar to use in a ``with`` block."""

    def __init__(self, title: str, total: int, unit: str, done: int, enabled: bool) -> None:
        self._bar: Any = tqdm(
            desc=title, total=total, unit=f" {unit}", initial=done, disable=not enabled, dynamic_ncols=True
        )

    def add(self, count: int) -> None:
        """Move on."""
        self._bar.update(count)

    def __enter__(self) -> "Bar":
        """Return the bar."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, whatever happened."""
        self._bar.close()

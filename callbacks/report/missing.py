"""What a report cannot show, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lightning_modules.errors import ConfigError

T = TypeVar("T")


class NothingToShowError(Exception):
    """A run has not what a section shows; the message is the sentence that stands there instead."""


@dataclass(frozen=True)
class Missing:
    """A section that cannot be shown.

    Attributes:
        reason: Why, in one sentence.
    """

    reason: str


def attempt(build: Callable[[], T]) -> T | Missing:
    """Build a section; where that fails, what it says is why, and the other sections are shown."""
    try:
        return build()
    except (NothingToShowError, ConfigError) as error:
        return Missing(str(error))
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Missing(f"This could not be shown: {first}")

"""What a run makes beside its result: its failure is told and costs the run nothing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("diffubias")


@contextmanager
def side_product(what: str) -> Iterator[None]:
    """Turn a failure into a warning of one line.

    Args:
        what: What is missing then.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        LOGGER.warning("%s left out, the run goes on (%s: %s)", what, type(error).__name__, reason)

"""Parsers of the command line that answer a mistake with one line."""

import re
import sys
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.errors import ConfigError


class OneLineParser(LightningArgumentParser):
    """Parser that answers a mistake with one line in place of the usage of two hundred arguments."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell what is wrong, without what jsonargparse tried on the way, and leave with status 2."""
        noise = ("Subtypes", "Errors", "Given value", "Expected a <class 'NoneType'>", "Does not validate against")
        lines = [line.strip(" -") for line in message.splitlines()]
        text = " ".join(line for line in lines if line and not line.startswith(noise))
        # jsonargparse names the last part of a nested key only
        ends = tuple(f".{key}" for key in re.findall(r"(?:Parser key|Option) [\"'](\w+)[\"']", text))
        flags = [word.partition("=")[0] for word in sys.argv]
        text = "".join([*(f"{flag}: " for flag in flags if ends and flag.endswith(ends)), text])
        sys.exit(
            complain(
                f"{text} (every setting: --print_config; their help: fit -h, --data.help CLASS, --model.help CLASS)"
            )
        )


class RaisingParser(OneLineParser):
    """Parser that leaves a mistake to its caller."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise it."""
        raise ConfigError(" ".join(message.split())[:300])


def complain(message: str) -> int:
    """Tell the user what is wrong.

    Args:
        message: One line.

    Returns:
        The exit status.
    """
    print(f"error: {f'[rank {rank()}] ' if rank() else ''}{message}", file=sys.stderr)
    return 2


def rank() -> int:
    """Rank of this process, 0 before there are several."""
    return int(getattr(rank_zero_only, "rank", 0))

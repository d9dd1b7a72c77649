"""What the modules share that teach a pretrained model more."""

from functools import cached_property
from typing import Any, ClassVar

from .generative import GenerativeModule
from .pretrained import Source, check_source, find_source


class FineTunedModule(GenerativeModule):
    """A model of the setting ``model`` that learns on; ``revision`` and ``download`` say how it is found.

    Attributes:
        index: the file that every such model has.
    """

    index: ClassVar[str]

    def check(self, data: Any) -> None:
        """Look whether the model is there.

        Raises:
            ConfigError: see :func:`check_source`.
        """
        check_source(self.source, self.index)

    @cached_property
    def source(self) -> Source:
        """Where the model is that is taught more."""
        return find_source(
            self.hparams["model"], self.hparams["revision"], self.hparams["download"], f"{self.key}.model"
        )

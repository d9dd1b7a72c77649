"""What the generators share that draw with a model of an earlier stage."""

from pathlib import Path
from typing import Any, ClassVar

import lightning as L  # noqa: N812

from callbacks.synthesis.distributed import on_rank_zero
from callbacks.synthesis.files import read_json
from callbacks.synthesis.generator import KEY, Generator
from lightning_modules.errors import ConfigError
from lightning_modules.generative import CLASSES
from lightning_modules.pretrained import Source, check_source, find_source, load, weights_digest
from lightning_modules.staged import StagedModule


class FittedGenerator(Generator):
    """Draws with the folder that a stage has written: the stage just fitted, or one of another run.

    Args:
        folder: The folder; null takes that of the stage that has just been fitted.
        batch_size: Images a batch.

    Attributes:
        learner: The module whose stage writes such folders.
        index: The file that tells such a folder.
    """

    learner: ClassVar[type[StagedModule]]
    index: ClassVar[str]

    def __init__(self, folder: Path | None, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"{KEY}.batch_size must be at least 1, got {batch_size}")
        self.folder = folder
        self.batch_size = batch_size
        self._fitted: Path | None = None

    def check(self, module: L.LightningModule | None, data: Any) -> None:
        """Look whether the model is there, whole, or will be, and is of the classes of the data.

        Raises:
            ConfigError: It is not.
        """
        if self.folder is None:
            self._check_module(module)
            return
        if not (self.folder / self.index).is_file():
            raise ConfigError(
                f"{KEY}.folder: {self.folder} holds no {self.index}: give the folder that a stage of "
                f"{self.learner.__name__} has written, or null in a chain with such a stage"
            )
        source = self._source()
        check_source(source, self.index)
        load(source, lambda: self.look_into(Path(source.location)))
        names = self.folder / CLASSES
        if names.is_file() and read_json(names) != list(data.class_names):
            raise ConfigError(
                f"{KEY}.folder: {self.folder} draws the classes {', '.join(read_json(names))}, which are not those of "
                "the data: give another folder"
            )

    def look_into(self, folder: Path) -> None:
        """Look, without loading much, whether this generator can draw with what the folder holds.

        Raises:
            OSError: A file is missing.
            ValueError: It is another kind of model.
        """

    def _check_module(self, module: Any) -> None:
        if not isinstance(module, self.learner):
            raise ConfigError(
                f"{KEY}.folder: the stage before has fitted {type(module).__name__}: let it fit "
                f"{self.learner.__name__}, or give the folder of a model"
            )

    def learn_from(self, module: L.LightningModule, data: Any, folder: Path) -> None:
        """Have the fitted model written, if none is named.

        Raises:
            ConfigError: The stage before has fitted something else.
        """
        if self.folder is not None:
            return
        self._check_module(module)
        fitted: Any = module
        on_rank_zero(lambda: fitted.export(folder, data))
        self._fitted = folder

    def fingerprint(self) -> str:
        """Return a digest of the fitted weights."""
        return "" if self._fitted is None else weights_digest(self._fitted)

    def describe(self) -> dict[str, Any]:
        """Return the model."""
        return {**super().describe(), "generator": str(self.folder or type(self).__name__)}

    def _source(self) -> Source:
        return find_source(str(self._fitted or self.folder), None, False, f"{KEY}.folder")

"""Waterbirds: two kinds of birds, pasted on land or water."""

import csv
import io
from functools import cached_property
from typing import ClassVar

import numpy as np

from datamodules.benchmark import Benchmark
from datamodules.images import ImageFiles
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

FOLDER = "waterbird_complete95_forest2water2/"
METADATA = "metadata.csv"
SPLITS: dict[Split, str] = {"train": "0", "val": "1", "test": "2"}


class Waterbirds(Benchmark):
    """Waterbirds (Sagawa et al., Distributionally Robust Neural Networks, ICLR 2020, arXiv 1911.08731).

    The archive waterbird_complete95_forest2water2 linked from https://github.com/kohpangwei/group_DRO, unpacked (root
    may also be the folder itself, or a zip file)::

        root/waterbird_complete95_forest2water2/metadata.csv                     (img_filename, y, split, place, ...)
        root/waterbird_complete95_forest2water2/<species>/<name>.jpg

    Label 0 is a landbird, 1 a waterbird; bias 0 is land, 1 water. About 95 % of the training images are aligned; in
    validation and test half of each class is. The average accuracy of the papers is `adjusted` here: groups weighted by
    their shares of the training set. Three species of landbirds are labelled as waterbirds, as everywhere.

    The whole set takes 1.8 GB with `cache=True` at 224 pixels.
    """

    ORIGIN: ClassVar[str] = "get Waterbirds from https://github.com/kohpangwei/group_DRO and unpack it"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Kinds of birds."""
        return ("landbird", "waterbird")

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Kinds of places; place i goes with bird i."""
        return ("land", "water")

    @cached_property
    def _folder(self) -> str:
        return self.locate(METADATA, "", FOLDER)

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        text = self.container.read(self._folder + METADATA).decode("utf-8-sig", errors="replace")
        reader = csv.DictReader(io.StringIO(text))
        rows = list(reader)
        allowed = {"img_filename": None, "y": {"0", "1"}, "split": set(SPLITS.values()), "place": {"0", "1"}}
        where = f"data.root: {self.root}, {METADATA}"
        for column, values in allowed.items():
            if column not in (reader.fieldnames or ()):
                raise ConfigError(f"{where} has no column {column}; {self.ORIGIN}")
            for number, row in enumerate(rows, start=2):
                if values is not None and row[column] not in values:
                    raise ConfigError(f"{where} has {column}={row[column]} in line {number}; {self.ORIGIN}")
        self.check_files(self.container, self._folder, (self._folder + row["img_filename"] for row in rows))
        return rows

    def load(self, split: Split) -> Samples:
        """Lists one split; the pictures are decoded later."""
        rows = [row for row in self._rows if row["split"] == SPLITS[split]]
        files = ImageFiles(self.container, [self._folder + row["img_filename"] for row in rows])
        labels, biases = (np.array([row[key] for row in rows], dtype=np.int64) for key in ("y", "place"))
        return Samples(files, labels, biases)

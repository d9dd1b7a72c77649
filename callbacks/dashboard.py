"""What the loggers of a stage show beyond curves: configuration, the synthesis in pictures, groups, and costs."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image

from callbacks.bars import draw_bars
from callbacks.emissions_log import read_records, total
from callbacks.settings import flatten
from callbacks.side_product import side_product
from callbacks.strip import CELL, GAP, fit_cell
from callbacks.synthesis.drawing import KEEP, read_image
from callbacks.synthesis.manifest import MANIFEST
from callbacks.synthesis.mining import MiningData
from callbacks.synthesis_table import DRAWN, Row, count_verdicts, read_table
from callbacks.table import METRICS

STEP = "trainer/global_step"  # Lightning's x-axis for W&B
PAGE = 10  # rows of a picture for TensorBoard
COLUMNS = ("class", "loss", "captions", "dropped, no frequent word", "kept", "rejected")
VERDICTS = ("verdict", "images")


class Dashboard(Callback):
    """Shows W&B and TensorBoard what is not a curve: the configuration, the synthesis in pictures, and the groups.

    Other loggers are left as they are. Nothing that fails here fails the run.

    Args:
        rows: Mined images (or, where nothing was mined, groups) in the table of the synthesis; 0 leaves it out.

    Attributes:
        settings: The configuration as YAML, set by the chain.
        synthetic: The synthetic folder, where this stage synthesises; set by the chain.
        earlier: Test metrics in 0..1 of earlier stages, set by the chain.
    """

    def __init__(self, rows: int = 100) -> None:
        self.rows = rows
        self.settings = ""
        self.synthetic: Path | None = None
        self.earlier: dict[str, dict[str, float]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the configuration."""
        for logger in _shown(trainer):
            with side_product("the configuration on the dashboard is"):
                if isinstance(logger, WandbLogger):
                    configuration = {"configuration": yaml.safe_load(self.settings)}
                    logger.experiment.config.update(configuration, allow_val_change=True)
                elif isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_text("configuration", f"```yaml\n{self.settings}\n```")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the synthesis: what was mined, captioned and drawn, what the gate said; keep the manifest."""
        loggers, directory = _shown(trainer), self.synthetic
        if not loggers or directory is None or self.rows < 1:
            return
        data: MiningData = trainer.datamodule  # type: ignore[attr-defined]
        with side_product("the synthesis on the dashboard is"):
            rows = read_table(directory, data.class_names, data.bias_names, self.rows)
            verdicts = count_verdicts(directory)
            for logger in loggers:
                if isinstance(logger, WandbLogger):
                    _tell_wandb(logger, rows, verdicts, data, directory, trainer.global_step)
                elif isinstance(logger, TensorBoardLogger):
                    _tell_tensorboard(logger.experiment, rows, verdicts, data, trainer.global_step)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the models of the chain reach so far, as bars, and this one's beside the settings."""
        metrics = trainer.callback_metrics  # on every rank: reading it may reduce over them
        own = {name.removeprefix("test/"): float(own) for name, own in metrics.items() if name.startswith("test/")}
        rows = {**self.earlier, str(pl_module.stage_name): own}
        for logger in _shown(trainer) if own else []:
            with side_product("the groups on the dashboard are"):
                if isinstance(logger, WandbLogger):
                    import wandb

                    cells = [[name, *(row.get(metric) for metric in METRICS)] for name, row in rows.items()]
                    bars, table = wandb.Image(_render(draw_bars(rows))), wandb.Table(["stage", *METRICS], cells)
                    logger.experiment.log({"groups/bars": bars, "groups/table": table, STEP: trainer.global_step})
                elif isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure("groups/bars", draw_bars(rows), trainer.global_step)
                    reached = {f"hparams/{name}": value for name, value in own.items()}
                    logger.log_hyperparams(flatten(yaml.safe_load(self.settings)), reached, trainer.global_step)


def log_costs(trainer: Trainer, run_dir: Path, stage: str) -> None:
    """Give every logger what the phases of a stage have cost: kilowatt hours, grams and minutes, in all attempts.

    Args:
        trainer: Has the loggers.
        run_dir: The run folder.
        stage: Name of the stage.
    """
    if not trainer.is_global_zero:
        return
    with side_product("the costs on the dashboard are"):
        records = [record for record in read_records(run_dir) if record["stage"] == stage]
        values: dict[str, float] = {}
        for phase in dict.fromkeys(str(record["phase"]) for record in records):
            costs = total([record for record in records if record["phase"] == phase])
            sums = {"kwh": costs["kwh"], "grams": costs["grams"], "minutes": costs["minutes"]}
            values |= {f"emissions/{phase}_{name}": own for name, own in sums.items() if own is not None}
        for logger in trainer.loggers if values else []:
            logger.log_metrics(values, trainer.global_step)
            logger.save()


def _shown(trainer: Trainer) -> list[Logger]:
    """The loggers that show more than numbers; real ones are on rank 0 only."""
    found = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in found if isinstance(logger, WandbLogger | TensorBoardLogger)]


def _render(figure: Figure) -> Image.Image:
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    return Image.open(content)


def _tell_wandb(
    logger: WandbLogger, rows: Sequence[Row], verdicts: Mapping[str, int], data: MiningData, directory: Path, step: int
) -> None:
    import wandb

    cells = []
    for row in rows:
        source = None if row.source is None else wandb.Image(data.source_image(row.source))
        drawn = wandb.Image(_side_by_side([read_image(file) for file in row.drawn.files])) if row.drawn.files else None
        cells.append([source, *_cells(row), drawn])
    tables = {
        "synthesis/table": wandb.Table(["mined", *COLUMNS, "drawn"], cells),
        "synthesis/verdicts": wandb.Table(list(VERDICTS), [[*own] for own in verdicts.items()]),
    }
    logger.experiment.log({**tables, STEP: step})
    if (directory / MANIFEST).is_file():
        artifact = wandb.Artifact(f"{logger.version}-manifest", "dataset")
        artifact.add_file(str(directory / MANIFEST), policy="immutable")  # read where it is
        logger.experiment.log_artifact(artifact)


def _tell_tensorboard(
    writer: Any, rows: Sequence[Row], verdicts: Mapping[str, int], data: MiningData, step: int
) -> None:
    numbered = ([number, *_cells(row)] for number, row in enumerate(rows))
    writer.add_text("synthesis/table", _markdown(("row", *COLUMNS), numbered), step)
    writer.add_text("synthesis/verdicts", _markdown(VERDICTS, verdicts.items()), step)
    for first in range(0, len(rows), PAGE):
        page = [_picture(row, data) for row in rows[first : first + PAGE]]
        pixels = np.concatenate([np.asarray(own) for own in page])
        writer.add_image(f"synthesis/rows_{first:03d}", pixels, step, dataformats="HWC")


def _cells(row: Row) -> list[Any]:
    """What stands under COLUMNS."""
    verdicts = dict(row.drawn.verdicts)
    kept = verdicts.pop(KEEP, 0)
    rejected = ", ".join(f"{reason} {count}" for reason, count in sorted(verdicts.items()))
    return [row.title, row.loss, "\n".join(row.captions), "\n".join(row.dropped), kept, rejected]


def _markdown(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    texts = [["" if cell is None else str(cell) for cell in line] for line in (head, ["---"] * len(head), *lines)]
    safe = ([cell.replace("|", "\\|").replace("\n", "<br>") for cell in line] for line in texts)
    return "\n".join(f"|{'|'.join(line)}|" for line in safe)


def _picture(row: Row, data: MiningData) -> Image.Image:
    """The mined image, if there is one, and what was drawn from it, always of one size."""
    blank = Image.new("RGB", (CELL, CELL), "white")
    source = blank if row.source is None else data.source_image(row.source)
    drawn = [read_image(file) for file in row.drawn.files]
    return _side_by_side([source, *drawn, *[blank] * (DRAWN - len(drawn))])


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (len(images) * (CELL + GAP), CELL + GAP), "white")
    for place, image in enumerate(images):
        row.paste(fit_cell(image), (place * (CELL + GAP), 0))
    return row

"""What the models of a run reach on the test set: evaluated after every fit, gathered in ``results.json``."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from callbacks.chain import Fit
from callbacks.checkpoints import read_checkpoint
from callbacks.emissions_log import Total
from callbacks.probe import source_auroc
from callbacks.synthesis.distributed import on_rank_zero
from callbacks.synthesis.files import make_folder, read_json, write_bytes, write_json
from callbacks.synthesis.generator import MODEL
from callbacks.table import METRICS
from callbacks.test_curve import best_on_test
from datamodules import DebiasDataModule
from lightning_modules import Classifier, StagedModule
from lightning_modules.metrics import GroupTable

RESULTS = "results.json"
# How the weights behind the numbers were chosen, written beside them.
SELECTION = {
    "test": "last epoch",
    "best_validation": "epoch selected by validation",
    "best_test": "selected on the test set, as papers that report the best test epoch do: not for comparison with the"
    " other two",
}


def evaluate(trainer: Trainer, module: StagedModule, datamodule: DebiasDataModule, fit: Fit) -> None:
    """Test a fitted classifier with its last and with its best weights, and mark its stage as done. Collective.

    Writes ``test.json`` (last epoch), ``groups.json`` (its counts of every group), ``best_validation.json`` (best.ckpt)
    and the marker ``done`` into the stage's folder; nothing in a rehearsal. Loggers see the last epoch's values only.

    Args:
        trainer: The one that has fitted the module; the module holds the last epoch's weights.
        module: The fitted module; it holds the best weights afterwards.
        datamodule: Gives the test set.
        fit: Whose folder is written.
    """
    found: dict[str, Any] = {}
    if isinstance(module, Classifier):
        found["test"] = _test(trainer, module, datamodule)
        found["groups"] = _name(module.test_metrics.groups(), datamodule)
        found["test"] |= _told_apart(trainer, module, datamodule)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    folder = fit.directory / MODEL
    on_rank_zero(lambda: module.export(folder, datamodule))
    if isinstance(module, Classifier) and fit.best.exists():
        if _step(fit.best) == _step(fit.last):
            found["best_validation"] = found["test"]
        else:
            loggers, trainer.loggers = trainer.loggers, []
            found["best_validation"] = _test(trainer, module, datamodule, fit.best)
            found["best_validation"] |= _told_apart(trainer, module, datamodule)
            trainer.loggers = loggers
    if trainer.is_global_zero:
        make_folder(fit.directory)
        for name, values in found.items():
            write_json(fit.directory / f"{name}.json", values)
        write_bytes(fit.directory / "done", b"")


def write_results(
    run_dir: Path, fits: Sequence[Fit], config: str, seed: int, costs: Total | None = None
) -> dict[str, dict[str, float]]:
    """Gather what the stages have reached in ``results.json``.

    Args:
        run_dir: The run folder.
        fits: The chain, done to its end.
        config: Name of the configuration.
        seed: Seed of the run.
        costs: Energy, emissions and time of the run, where they were measured.

    Returns:
        The test metrics of the last epochs, in 0..1, by fit.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in ("test", "best_validation", "groups"):
        rows[name] = read_rows(name, fits)
    rows["best_test"] = {fit.name: best for fit in fits if (best := best_on_test(fit.directory))}
    packages = {name: version(name) for name in ("lightning", "torch", "torchvision", "diffusers", "transformers")}
    selection = {name: how for name, how in SELECTION.items() if rows[name]}
    order = (*selection, "groups")
    result = {"config": config, "seed": seed, "selection": selection, **{name: rows[name] for name in order}}
    if costs is not None:
        result["emissions"] = costs
    write_json(run_dir / RESULTS, {**result, "packages": packages})
    return rows["test"]


def read_rows(name: str, fits: Sequence[Fit]) -> dict[str, Any]:
    """Read what :func:`evaluate` has written under a name for some stages, by stage; those without are left out."""
    files = {fit.name: fit.directory / f"{name}.json" for fit in fits}
    return {own: read_json(file) for own, file in files.items() if file.is_file()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Lay out test results in per cent.

    Args:
        rows: Stage name to metrics in 0..1.

    Returns:
        One line a stage; a dash where a set has no labels for a metric.
    """
    columns = [c for c in METRICS if any(c in r for r in rows.values())]
    width = max(16, *(len(name) + 1 for name in rows))
    lines = [f"{'test set, %':<{width}}" + "".join(f"{c.replace('_', ' '):>14}" for c in columns)]
    for name, row in rows.items():
        lines.append(
            f"{name:<{width}}" + "".join(f"{100 * row[c]:>14.1f}" if c in row else f"{'-':>14}" for c in columns)
        )
    if not {"aligned", "conflict"} & set(columns):
        lines.append("no bias labels in this test set: aligned, conflict and worst group cannot be told")
    return "\n".join(lines)


def _told_apart(trainer: Trainer, module: Classifier, datamodule: DebiasDataModule) -> dict[str, float]:
    """How well the module tells synthetic from real images, where there are enough of both."""
    if not datamodule.has_synthetic:
        return {}
    value = source_auroc(module, datamodule, trainer.strategy.root_device)
    return {} if value is None else {"source_auroc": value}


def _test(
    trainer: Trainer, module: Classifier, datamodule: DebiasDataModule, checkpoint: Path | None = None
) -> dict[str, float]:
    """Metrics of the test set in 0..1, with the module's own weights or those of a checkpoint."""
    # every loader's dict holds what is logged at the end
    metrics, *_ = trainer.test(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return {name.removeprefix("test/").replace("/", "_"): value for name, value in metrics.items()}


def _step(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written; the weights stay on the disk."""
    return int(read_checkpoint(checkpoint, mmap=True)["global_step"])


def _name(groups: GroupTable, datamodule: DebiasDataModule) -> list[dict[str, Any]]:
    """Counts of every group under the names of its class and bias attribute, None where that is unknown."""
    columns = (groups.label, groups.bias, groups.count, groups.correct)
    return [
        {
            "label": datamodule.class_names[label],
            "bias": datamodule.bias_names[bias] if bias >= 0 else None,
            "count": count,
            "correct": correct,
        }
        for label, bias, count, correct in zip(*(column.tolist() for column in columns), strict=True)
    ]

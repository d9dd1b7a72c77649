"""Reading a run folder: finished or not, with synthetic images or without."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from callbacks.emissions_log import EMISSIONS
from callbacks.provenance import PROVENANCE
from callbacks.report.missing import NothingToShowError
from callbacks.results import RESULTS
from callbacks.run_folder import CONFIG
from callbacks.synthesis.files import read_json, read_lines
from callbacks.synthesis.losses import Losses, read_losses
from callbacks.synthesis.manifest import CONTRAST, FILTER, MANIFEST, REJECTED, SELECTION, Caption, read_captions
from lightning_modules.errors import ConfigError

Json = dict[str, Any]


@dataclass(frozen=True)
class StageResult:
    """What a classifier of the chain reaches on the test set with the weights of its last epoch.

    Attributes:
        name: Name of the fit.
        metrics: Values in 0..1 by name.
        groups: Counts of every group, dicts of ``label``, ``bias`` (None where unknown), ``count`` and ``correct``.
    """

    name: str
    metrics: dict[str, float]
    groups: list[Json]


@dataclass(frozen=True)
class Synthesis:
    """What the synthesis left; empty where it has not come so far.

    Attributes:
        directory: The folder ``synthetic``.
        classes: Names of the classes, by label; () where nothing was mined.
        top_k: How many were mined, of each class or of the set.
        scope: ``class`` or ``set``.
        mined: The selection, hardest first: dicts of ``index``, ``label``, ``bias`` and ``loss``.
        captions: Captions by mined image.
        contrast: Class and texts of the captioned images with the lowest losses.
        filtered: Whether a text filter has chosen among the captions.
        frequent: The words by which it chose, with their counts.
        losses: The loss of every training image.
        drawn: The records of the manifest.
        rejected: How often the gate gave a reason, by class and reason.
    """

    directory: Path
    classes: tuple[str, ...]
    top_k: int
    scope: str
    mined: list[Json]
    captions: dict[int, list[Caption]]
    contrast: list[tuple[int, list[str]]]
    filtered: bool
    frequent: list[tuple[str, int]]
    losses: Losses | None
    drawn: list[Json]
    rejected: Counter[tuple[str, str]]


@dataclass(frozen=True)
class RunRecord:
    """A run folder.

    Attributes:
        folder: Its path.
        name: Name of the configuration where it is known, that of the folder otherwise.
        config: The configuration.
        seed: The seed.
        finished: Whether the chain has come to its end.
        stages: The classifiers that were tested, in their order.
        synthesis: None where nothing was mined or drawn.
        emissions: Time and energy of every phase and attempt.
        provenance: Circumstances of every attempt.
    """

    folder: Path
    name: str
    config: Json
    seed: int
    finished: bool
    stages: list[StageResult]
    synthesis: Synthesis | None
    emissions: list[Json]
    provenance: list[Json]


def need_classifiers(record: RunRecord) -> list[StageResult]:
    """Return the first and the last classifier of a chain, or its only one.

    Raises:
        NothingToShowError: None was tested.
    """
    if record.stages:
        return [record.stages[0], record.stages[-1]][: len(record.stages)]
    if record.finished:
        raise NothingToShowError("This chain has no classifier.")
    raise NothingToShowError("No classifier of this chain has been tested yet: run fit to its end.")


def need_synthesis(record: RunRecord) -> Synthesis:
    """Return what the synthesis left.

    Raises:
        NothingToShowError: There is none.
    """
    if record.synthesis is None:
        planned = (record.config.get("stages") or {}).values()
        if any(stage.get("synthesize", "no") != "no" for stage in planned):
            raise NothingToShowError("The chain has not come so far: nothing was mined or drawn yet.")
        raise NothingToShowError("This chain synthesises nothing.")
    return record.synthesis


def bias_names(record: RunRecord) -> list[str]:
    """Names of the bias attributes, as the test results have them."""
    groups = [group for stage in record.stages[:1] for group in stage.groups]
    return [name for name in dict.fromkeys(group["bias"] for group in groups) if name is not None]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Args:
        folder: The run folder; nothing in it is changed.

    Raises:
        ConfigError: It holds no run, or a file of it is damaged.
    """
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        seed = int(config["seed_everything"])
    except OSError as error:
        raise ConfigError(f"RUN_DIR: {folder} holds no {CONFIG}; give the run folder of a fit") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"RUN_DIR: {folder / CONFIG} is no configuration of a run; give another folder") from error
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else None
    stages = _stages_of(results) if results else _stages_so_far(folder)
    return RunRecord(
        folder=folder,
        name=results["config"] if results else folder.resolve().name,
        config=config,
        seed=seed,
        finished=results is not None,
        stages=stages,
        synthesis=_read_synthesis(folder / "synthetic"),
        emissions=read_lines(folder / EMISSIONS),
        provenance=read_lines(folder / PROVENANCE),
    )


def _stages_of(results: Json) -> list[StageResult]:
    groups = results.get("groups", {})
    return [StageResult(name, metrics, groups.get(name, [])) for name, metrics in results.get("test", {}).items()]


def _stages_so_far(folder: Path) -> list[StageResult]:
    """The stages that a chain has tested before it was stopped."""
    found = []
    for file in sorted(folder.glob("stages/*/test.json"), key=lambda file: file.parent.name.partition("-")[0].zfill(9)):
        groups = file.with_name("groups.json")
        name = re.sub(r"^\d+-", "", file.parent.name)
        found.append(StageResult(name, read_json(file), read_json(groups) if groups.is_file() else []))
    return found


def _read_synthesis(directory: Path) -> Synthesis | None:
    selection = read_json(directory / SELECTION) if (directory / SELECTION).is_file() else {}
    drawn = read_lines(directory / MANIFEST)
    if not selection and not drawn:
        return None
    fingerprint = selection.get("fingerprint", {})
    decided = read_json(directory / FILTER) if (directory / FILTER).is_file() else {}
    contrast = read_json(directory / CONTRAST)["items"] if (directory / CONTRAST).is_file() else []
    rejected = Counter((record["class_name"], record["verdict"]) for record in read_lines(directory / REJECTED))
    return Synthesis(
        directory=directory,
        classes=tuple(fingerprint.get("classes", ())),
        top_k=fingerprint.get("top_k", 0),
        scope=fingerprint.get("miner", {}).get("scope", "class"),
        mined=selection.get("items", []),
        captions=read_captions(directory),
        contrast=[(item["label"], item["captions"]) for item in contrast],
        filtered=bool(decided),
        frequent=[(word, count) for word, count in decided.get("words", [])],
        losses=read_losses(directory),
        drawn=drawn,
        rejected=rejected,
    )

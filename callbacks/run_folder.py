"""A run folder belongs to one configuration: claiming a new one, and refusing one that holds another run."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from callbacks.chain import Fit
from callbacks.settings import flatten
from callbacks.synthesis.files import make_folder, write_bytes
from lightning_modules.errors import ConfigError

LOGGER = logging.getLogger("diffubias")
CONFIG = "config.yaml"
PATIENCE = 20.0  # seconds; loader workers of a run that was killed take up to five to see it


@contextmanager
def held(run_dir: Path, is_rank_zero: bool) -> Iterator[None]:
    """Keep other runs out of a run folder, as long as this one is at work there; the end of the process frees it.

    Args:
        run_dir: The run folder; it is made.
        is_rank_zero: Whether this process does so; the others of a run do nothing.

    Raises:
        ConfigError: Another process is at work there.
    """
    with ExitStack() as stack:
        if is_rank_zero:
            make_folder(run_dir)
            try:
                stack.enter_context(FileLock(run_dir / ".lock", timeout=PATIENCE))
            except Timeout as error:
                raise ConfigError(
                    f"run_dir: another process is at work in {run_dir}; wait for its end, or give another --run_dir"
                ) from error
            except OSError as error:
                LOGGER.debug("%s cannot be locked: %s", run_dir, error)
        yield


def claim(run_dir: Path, text: str, fits: list[Fit], is_rank_zero: bool) -> None:
    """Write the configuration into a run folder, unless the folder holds a run with other settings.

    What only concerns stages that have no checkpoint yet may still change: a wrong learning rate of the last stage
    does not cost the stages before it.

    Args:
        run_dir: The run folder; need not exist.
        text: The whole configuration as YAML.
        fits: The chain that it describes.
        is_rank_zero: Whether this process writes it; the others only compare.

    Raises:
        ConfigError: The folder holds a run with other settings, or cannot be written.
    """
    path = run_dir / CONFIG
    started = any(run_dir.glob("stages/*/checkpoints/*")) or (run_dir / "synthetic").exists()
    if started and not path.exists():
        raise ConfigError(
            f"run_dir: {run_dir} holds a run without its {CONFIG}, so that its settings are not known; put that file"
            " back, or give another --run_dir"
        )
    if started:  # a first attempt may fail at once, of a setting that is then put right
        every = differences(run_dir, text)
        if not every:
            return
        free = _free_keys(run_dir, fits)
        if changes := [line for line in every if not line.startswith(free)]:
            raise ConfigError(
                f"run_dir: {run_dir} holds a run with other settings ({'; '.join(changes)});"
                " give another --run_dir, or the old settings to go on"
            )
    if is_rank_zero:
        make_folder(run_dir)
        write_bytes(path, text.encode())


def differences(run_dir: Path, text: str) -> list[str]:
    """Compare the configuration of a run with another one.

    Args:
        run_dir: The run folder.
        text: The other configuration as YAML.

    Returns:
        A line for each setting that differs, ``key: old -> new``; none where the folder has no configuration.

    Raises:
        ConfigError: That of the folder is damaged.
    """
    path = run_dir / CONFIG
    if not path.exists():
        return []
    old, new = _read(path), flatten(yaml.safe_load(text))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]


def _read(path: Path) -> dict[str, object]:
    try:
        return flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ConfigError(f"run_dir: {path} is damaged; put it back, or give another --run_dir") from error


def _free_keys(run_dir: Path, fits: list[Fit]) -> tuple[str, ...]:
    """Beginnings of the keys that concern only stages that have not started."""
    ours = {fit.directory for fit in fits}
    if any(file.parents[1] not in ours for file in run_dir.glob("stages/*/checkpoints/*")):
        return ()  # the chain itself has changed: its folders would be taken for those of stages that have not started
    synthesised = (run_dir / "synthetic").exists()
    begun = [fit.is_started or (synthesised and fit.stage.synthesize in ("end", "captions")) for fit in fits]
    fixed = {fit.written for number, fit in enumerate(fits) if any(begun[number:])}  # later ones build on it
    modules = {fit.stage.module for fit in fits if fit.written in fixed}
    idle = {fit.written: fit.stage.module for fit in fits if fit.written not in fixed}
    return (
        *(f"stages.{name}." for name in idle),
        *(f"{module}." for module in idle.values() if module not in modules),
    )

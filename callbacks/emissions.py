"""What a run costs: time, energy, emissions and memory of every phase."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning.pytorch import Trainer

from callbacks.emissions_log import Record, Total, append_records, read_records, recover, total, write_open
from callbacks.memory import forget_peaks, peak_allocated, peak_resident
from callbacks.provenance import describe_devices
from callbacks.side_product import side_product
from lightning_modules.errors import ConfigError

if TYPE_CHECKING:
    from callbacks.energy import EnergyReader

LOGGER = logging.getLogger("diffubias")
WORLD_AVERAGE = 475.0  # g CO2e a kWh in 2018: IEA, Global Energy & CO2 Status Report (2019)


@dataclass
class Phase:
    """A phase in progress; what phases inside it take is theirs alone."""

    name: str
    stage: str
    started: str
    seconds: float = 0.0
    kwh: float | None = None
    memory_mib: float = 0.0
    gpu_memory_mib: float | None = None


class Meter:
    """Measures the phases of a run, and appends a record of each to ``emissions.jsonl`` in the run folder.

    One process a node measures for its node. The phases in progress stand in a file of their own, renewed with every
    reading, from which the next attempt makes records if this one is killed. What fails here costs the run nothing.

    Args:
        enabled: Whether to measure.
        country: ISO code of three letters, such as FRA, of the country whose electricity is used; what a kilowatt hour
            emits there is CodeCarbon's figure. null takes `grams_per_kwh`.
        grams_per_kwh: Grams of CO2 equivalent for a kilowatt hour, at least 0; the default is the world's average.
        tracking: What is counted where power is estimated: the whole `machine`, or, on one that others use too, this
            `process` and those it has started. Energy counters, where they may be read, are those of the machine.

    Attributes:
        directory: The run folder, set by the chain; without it nothing is measured.
    """

    def __init__(
        self,
        enabled: bool = True,
        country: str | None = None,
        grams_per_kwh: float = WORLD_AVERAGE,
        tracking: Literal["machine", "process"] = "machine",
    ) -> None:
        if grams_per_kwh < 0:
            raise ConfigError(f"emissions.grams_per_kwh must be at least 0, got {grams_per_kwh}")
        self.enabled = enabled
        self.country = country
        self.grams_per_kwh = grams_per_kwh
        self.tracking: Literal["machine", "process"] = tracking
        self.directory: Path | None = None
        self._trainer: Trainer | None = None
        self._stage = ""
        self._phases: list[Phase] = []  # the innermost last
        self._settled = 0.0
        self._reader: EnergyReader | None = None
        self._read = 0.0
        self._has_warned = False
        self._lock = threading.RLock()  # CodeCarbon's readings come from a thread of its own

    def check(self) -> None:
        """Look the country up.

        Raises:
            ConfigError: CodeCarbon does not know it.
        """
        if not self.enabled or self.country is None:
            return
        try:
            from callbacks.energy import country_factor
        except ImportError:  # told when the first phase begins
            return
        self.grams_per_kwh = country_factor(self.country)

    def watch(self, stage: str, trainer: Trainer) -> None:
        """Measure for a stage from now on.

        Args:
            stage: Its name.
            trainer: Knows the devices, and which process of a node measures.
        """
        self._stage, self._trainer = stage, trainer
        if self._directory is not None:
            with side_product("the energy of an earlier attempt is"):
                recover(self._directory, trainer.node_rank)

    @contextmanager
    def phase(self, name: str, *results: Path) -> Iterator[None]:
        """Measure what happens inside, and append its record however it ends.

        Args:
            name: ``fit``, ``mining``, ``captioning``, ``generation`` or ``test``.
            results: What the phase leaves; where all of it is there already, the phase is over and leaves no record.
        """
        if self._directory is None or (results and all(result.exists() for result in results)):
            yield
            return
        self._begin(name)
        try:
            yield
        finally:
            self._end()

    def total(self) -> Total | None:
        """Sum up what the run has cost, in all its attempts; no phase may be in progress on any node.

        Returns:
            See :func:`callbacks.emissions_log.total`; None where nothing was measured.
        """
        if self.directory is None:
            return None
        with side_product("what the run has cost is"):
            recover(self.directory)
            records = read_records(self.directory)
            return total(records) if records else None
        return None

    @property
    def _directory(self) -> Path | None:
        """Where to; None for a process that does not measure."""
        measures = self.enabled and self._trainer is not None and self._trainer.local_rank == 0
        return self.directory if measures else None

    def _begin(self, name: str) -> None:
        if self._phases:
            self._take_reading()
        else:
            self._start_reader()
        with self._lock:
            self._phases.append(Phase(name, self._stage, datetime.now(UTC).isoformat(timespec="milliseconds")))
            self._start_anew()
        self._save()

    def _end(self) -> None:
        self._take_reading(last=len(self._phases) == 1)
        assert self._directory is not None
        with self._lock:
            phase = self._phases.pop()
            self._start_anew()
        if phase.kwh is None:
            self._warn("the power cannot be read")
        with side_product(f"the record of what {phase.name} has cost is"):
            append_records(self._directory, [self._record(phase)])
        self._save()

    def _start_anew(self) -> None:
        """Have time and peaks count for the innermost phase."""
        assert self._trainer is not None
        self._settled = time.monotonic()
        forget_peaks(self._trainer.strategy.root_device)

    def _start_reader(self) -> None:
        assert self._trainer is not None
        self._read = 0.0
        try:
            from callbacks.energy import EnergyReader, gpu_indices

            device = self._trainer.strategy.root_device
            gpus = gpu_indices(self._trainer.device_ids) if device.type == "cuda" else []
            self._reader = EnergyReader(self._take, gpus, self.tracking)
        except Exception as error:
            self._warn(f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _take_reading(self, last: bool = False) -> None:
        """Bring the innermost phase up to date."""
        reader = self._reader
        if reader is not None:
            with side_product("an energy reading is"):
                reader.stop() if last else reader.read()
        if last:
            self._reader = None
        self._settle()

    def _take(self, kwh: float) -> None:
        """Credit what was drawn since the last reading to the innermost phase."""
        with self._lock:
            if self._phases:
                phase = self._phases[-1]
                phase.kwh = (phase.kwh or 0.0) + max(0.0, kwh - self._read)
            self._read = max(self._read, kwh)
            self._settle()
        self._save()

    def _settle(self) -> None:
        """Bring time and memory of the innermost phase up to date."""
        with self._lock:
            if not self._phases or self._trainer is None:
                return
            phase, now = self._phases[-1], time.monotonic()
            phase.seconds += now - self._settled
            self._settled = now
            phase.memory_mib = max(phase.memory_mib, peak_resident())
            allocated = peak_allocated(self._trainer.strategy.root_device)
            if allocated is not None:
                phase.gpu_memory_mib = max(phase.gpu_memory_mib or 0.0, allocated)

    def _save(self) -> None:
        """Write down the phases in progress."""
        with self._lock, side_product("the record of what is going on is"):
            if self._directory is not None and self._trainer is not None:
                write_open(self._directory, self._trainer.node_rank, [self._record(phase) for phase in self._phases])

    def _record(self, phase: Phase) -> Record:
        assert self._trainer is not None
        return {
            "phase": phase.name,
            "stage": phase.stage,
            "started": phase.started,
            "seconds": round(phase.seconds, 3),
            "kwh": phase.kwh,
            "grams": None if phase.kwh is None else phase.kwh * self.grams_per_kwh,
            "grams_per_kwh": self.grams_per_kwh,
            "memory_mib": round(phase.memory_mib, 1),
            "gpu_memory_mib": None if phase.gpu_memory_mib is None else round(phase.gpu_memory_mib, 1),
            "node": self._trainer.node_rank,
            "devices": describe_devices(self._trainer),
        }

    def _warn(self, reason: str) -> None:
        """Tell once that the energy is not known."""
        if not self._has_warned:
            LOGGER.warning("the energy of this run is not known: only time and memory are recorded (%s)", reason)
        self._has_warned = True

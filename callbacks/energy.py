"""The energy that this machine draws, read by CodeCarbon: nothing is written, fetched or printed."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import codecarbon
import torch
from codecarbon.core.emissions import Emissions
from codecarbon.core.units import Energy
from codecarbon.external.geography import GeoMetadata
from codecarbon.input import DataSource
from codecarbon.output_methods.base_output import BaseOutput
from codecarbon.output_methods.emissions_data import EmissionsData

from lightning_modules.errors import ConfigError

INTERVAL = 15  # seconds between two readings; in between CodeCarbon samples the power every second
logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it tells every reading, from its import on


class EnergyReader(BaseOutput):
    """Reads the energy of processors, memory and GPUs until it is stopped.

    Where the machine has no counter that may be read, CodeCarbon estimates from the load and the processor's rating.

    Args:
        take: Gets the kilowatt hours since the start, every ``INTERVAL`` seconds from a thread of CodeCarbon's, and at
            every :meth:`read`.
        gpus: NVML indices of the GPUs that count; [] for none.
        tracking: The whole machine, or this process with its children.
    """

    def __init__(
        self, take: Callable[[float], None], gpus: Sequence[int], tracking: Literal["machine", "process"]
    ) -> None:
        self._take = take
        # Everything that a configuration file of the user's could have it write or fetch is switched off by name.
        self._tracker = codecarbon.OfflineEmissionsTracker(
            measure_power_secs=INTERVAL,
            api_call_interval=1,
            tracking_mode=tracking,
            gpu_ids=list(gpus),
            output_methods=[],
            output_handlers=[self],
            emissions_endpoint=None,
            electricitymaps_api_token="",
            cloud_provider=None,
            cloud_region=None,
            region=None,
            country_iso_code=None,
            force_carbon_intensity_g_co2e_kwh=0.0,  # grams are ours to compute
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker.start()

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Take a reading that was asked for."""
        self._take(total.energy_consumed)

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Take a reading that was due."""
        self._take(total.energy_consumed)

    def read(self) -> None:
        """Read now."""
        self._tracker.flush()

    def stop(self) -> None:
        """Read for the last time."""
        self._tracker.stop()


def country_factor(country: str) -> float:
    """Grams of CO2 equivalent for a kilowatt hour of a country's electricity, as CodeCarbon has it.

    Args:
        country: ISO 3166 code of three letters.

    Raises:
        ConfigError: CodeCarbon does not know the country.
    """
    known = DataSource().get_global_energy_mix_data()
    if country not in known:
        raise ConfigError(
            f"emissions.country={country} is no country that CodeCarbon knows: give the ISO code of three letters, such"
            " as FRA, or leave it out and set emissions.grams_per_kwh"
        )
    place = GeoMetadata(country_iso_code=country, country_name=known[country]["country_name"])
    return 1000 * float(Emissions(DataSource()).get_country_emissions(Energy.from_energy(kWh=1), place))


def gpu_indices(devices: Sequence[int]) -> list[int]:
    """NVML indices, which do not know of CUDA_VISIBLE_DEVICES, of some CUDA devices."""
    import pynvml

    pynvml.nvmlInit()
    ids = (f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices)
    return [pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(own)) for own in ids]

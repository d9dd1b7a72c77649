import os

# One thread: sums come out the same in every process of every test, and small tensors are fastest so.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", GLOO_SOCKET_IFNAME="lo")

from collections.abc import Iterator
from multiprocessing import set_forkserver_preload
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import chain, tiny_models

torch.set_num_threads(1)
# Before the first process of any test: what the server has not imported then, every process imports for itself.
set_forkserver_preload(["torch.distributed", "torchvision", "lightning.pytorch", "tests.preload"])

# What a test may leave: seeds for the workers of loaders, what scikit-learn sets at its import, and what pytest sets.
HARMLESS = {"PL_GLOBAL_SEED", "PL_SEED_WORKERS", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "PYTEST_CURRENT_TEST"}


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    """Fail a test that leaves a process group or changed environment variables."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    os.environ.clear()
    os.environ.update(before)
    group = dist.is_initialized()
    if group:
        dist.destroy_process_group()
    assert not group, "the test left a process group"
    assert changed <= HARMLESS, "the test left changed environment variables"


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_stable_diffusion(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="session")
def captioning_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_vision_encoder_decoder(tmp_path_factory.mktemp("ved") / "model")


@pytest.fixture(scope="session")
def small(captioning_model: Path, stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> chain.Small:
    return chain.Small(captioning_model, stable_diffusion, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def fit(small: chain.Small) -> list[str]:
    """A whole chain of two epochs a stage, whose parts can be made to fail."""
    return [
        "fit",
        "--config=configs/miniature.yaml",
        *small(chain.ROOT / "configs" / "miniature.yaml"),
        "--trainer.max_epochs=2",
        "--stages.biased.max_epochs=2",
        "--trainer.callbacks=tests.faults.FaultyCallback",
        "--synthesize.captioner=tests.faults.FaultyCaptioner",
        "--synthesize.generator=tests.faults.FaultyGenerator",
        "--synthesize.gate=tests.faults.FaultyGate",
    ]


@pytest.fixture(scope="session")
def reference(fit: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an unbroken chain; to be read only."""
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    outcome = chain.call(*fit, f"--run_dir={run_dir}")
    assert outcome.status == 0, outcome.err
    return run_dir

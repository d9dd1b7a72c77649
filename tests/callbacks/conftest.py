from pathlib import Path

import pytest

from tests import tiny_models


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_stable_diffusion(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="session")
def captioning_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_vision_encoder_decoder(tmp_path_factory.mktemp("ved") / "model")

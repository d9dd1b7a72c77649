import importlib
from pathlib import Path

import pytest

from tests import tiny_models

# It sets KMP_* variables when first imported: before the first test, or that test seems to leak them.
importlib.import_module("sklearn")


@pytest.fixture(scope="session")
def captioning_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_vision_encoder_decoder(tmp_path_factory.mktemp("ved") / "model")

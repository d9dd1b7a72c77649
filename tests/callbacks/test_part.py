from pathlib import Path

import pytest

from callbacks.synthesis import Captioner, DiffusersGenerator, Gate, LossMiner
from callbacks.synthesis.part import check_fingerprint, digest, plain
from lightning_modules.errors import ConfigError


def test_settings_leave_out_speed_and_private_state() -> None:
    slow, fast = Captioner("a/b", batch_size=1), Captioner("a/b", batch_size=64, download=True)
    assert slow.settings() == fast.settings()
    assert slow.settings()["class"] == "Captioner"
    assert not any(name.startswith("_") for name in DiffusersGenerator().settings())
    assert LossMiner("set").settings() != LossMiner("class").settings()


def test_plain_is_what_json_gives_back() -> None:
    assert plain({1: (Path("a"), {3, 2}, None, 1.5, True)}) == {"1": ["a", [2, 3], None, 1.5, True]}
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})


def test_a_mismatch_names_the_settings_with_both_values() -> None:
    old, new = plain({"gate": Gate(retries=1).settings()}), {"gate": Gate(retries=2).settings()}
    check_fingerprint(Path("f"), old, {"gate": Gate(retries=1).settings()}, "delete f")
    message = r"^f was made with other settings \(gate\.retries: 1 then, 2 now\): restore them, or delete f$"
    with pytest.raises(ConfigError, match=message):
        check_fingerprint(Path("f"), old, new, "delete f")
    with pytest.raises(ConfigError, match="other settings"):
        check_fingerprint(Path("f"), None, new, "delete f")

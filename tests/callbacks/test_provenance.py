import getpass
import json
import re
import shlex
import socket
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import torch

from callbacks.provenance import PROVENANCE, describe_devices, read_commit, record_attempt
from tests.fitting import make_trainer

WORDS = ["train.py", "fit", "--config=my configs/a.yaml", "--data.root", "../it's here"]


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", "-C", folder, *own, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "code.py").write_text("1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def test_commit_and_changes(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "runs").mkdir()
    (checkout / "runs" / "results.json").touch()  # git does not follow it
    assert read_commit(checkout) == {"commit": commit, "dirty": False}
    (checkout / "package" / "code.py").write_text("2\n")
    assert read_commit(checkout) == {"commit": commit, "dirty": True}


def test_a_package_inside_another_checkout_has_no_commit(checkout: Path, tmp_path: Path) -> None:
    assert read_commit(checkout / "package") == {"commit": None, "dirty": None}
    assert read_commit(tmp_path) == {"commit": None, "dirty": None}


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_commit(checkout) == {"commit": None, "dirty": None}


def test_a_line_an_attempt(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, strategy="ddp", devices=2)
    path = tmp_path / "run" / PROVENANCE
    record_attempt(tmp_path / "run", WORDS, trainer, 3)
    with path.open("a") as file:
        file.write('{"command": "torn')
    record_attempt(tmp_path / "run", WORDS[:2], trainer, 3)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert list(first) == [
        "command", "started", "commit", "dirty", "packages", "python", "platform", "devices", "world_size", "seed",
    ]  # fmt: skip
    assert shlex.split(first["command"]) == ["python", *WORDS]
    assert second["command"] == "python train.py fit"
    assert datetime.fromisoformat(first["started"]).utcoffset() is not None
    assert first["started"] < second["started"]
    assert first["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert (first["devices"], first["world_size"], first["seed"]) == ("2 x CPU", 2, 3)
    # neither the machine nor its user
    words = set(re.findall(r"\w+", json.dumps([first["platform"], first["packages"], first["devices"]])))
    assert not words & {socket.gethostname(), getpass.getuser()}


def test_devices(tmp_path: Path) -> None:
    assert describe_devices(make_trainer(tmp_path)) == "1 x CPU"

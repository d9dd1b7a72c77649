"""The commands that the README shows are run, in small, in the order in which a reader meets them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chain import ROOT, Small, call, command

README = (ROOT / "README.md").read_text()
COMMANDS = {"fit", "validate", "test", "predict", "sweep", "table", "report"}
OUTPUT = re.compile(r"runs/([\w-]+)")


def commands(start: str) -> list[str]:
    """Lines of the README's code blocks that begin with ``start``, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.startswith(start)]


def make_small(line: str, small: Small, root: Path) -> list[str]:
    """Point a command to small data and models and to ``root`` for its output."""
    words = [str(root / OUTPUT.sub(r"\1", word)) if OUTPUT.fullmatch(word) else word for word in line.split()[2:]]
    if words[0] in ("table", "report"):
        return words
    config = ROOT / words[words.index("--config") + 1]
    places = {
        "path/to/BAR": small.root("BAR"),
        "path/to/photos": small.root("Folder"),
        "path/to/labels.csv": small.root("Table"),
        "path/to/blip": small.captioner,
        "path/to/sdxl": small.generator,
    }
    words = [str(places.get(word, word)) for word in words]
    if words[0] == "sweep":
        return [*words, *small(config), "--trainer.max_epochs=1"]
    if "--run_dir" not in words:
        words += ["--run_dir", str(root / config.stem)]
    # what makes it small comes before what the README says, so that its own flags have the last word
    return [words[0], "--config", str(config), *small(config), *words[3:], "--trainer.max_epochs", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_the_readme_shows_commands() -> None:
    assert {line.split()[2] for line in commands("python train.py")} == COMMANDS
    assert commands("make") != []
    assert not re.findall(r"`python train\.py \w+ --config (?!configs/)", README)


@pytest.mark.parametrize("line", commands("python train.py"))
def test_command(line: str, small: Small, root: Path) -> None:
    words = make_small(line, small, root)
    placeholders = [word for word in words if "path/to" in word]
    assert not placeholders, f"unknown placeholder in the README: {placeholders}"
    alone = {"--trainer.devices", "--trainer.logger"} & set(words)  # these start processes
    outcome = command(sys.executable, "train.py", *words) if alone else call(*words)
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("line", commands("make"))
def test_make_target(line: str) -> None:
    subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, check=True, capture_output=True)


def test_configs_and_links_exist() -> None:
    for path in re.findall(r"configs/\w+\.yaml", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path

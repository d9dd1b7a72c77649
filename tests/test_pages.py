"""The commands that README and docs show are run, in small, page by page in the order in which a reader meets them."""

import re
import runpy
import shlex
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import pytest
import yaml

from tests.chain import ROOT, Outcome, Small, call, run, run_ranks, small_backbones
from tests.layouts.folder import write_folder
from tests.layouts.table import write_table
from tests.pages import PAGES, Command, blocks, commands, shown_files

ERRORS = ROOT / "docs/errors.md"
EVERY = [(page, own) for page in PAGES for own in commands(page)]


def page_id(value: Path | Command) -> str:
    return value.stem if isinstance(value, Path) else value.need


class Reader:
    """Types the commands of one page.

    Args:
        page: The page.
        small: What makes data and models small.
        folder: Where the page's files, and what the commands write, go.
    """

    def __init__(self, page: Path, small: Small, folder: Path) -> None:
        self.small, self.shelf, self.runs = small, folder / "shelf", folder / "runs"
        self.shelf.mkdir()
        for name, text in shown_files(page).items():
            (self.shelf / name).write_text(text)

    def type(self, line: str) -> Outcome:
        """Run one line."""
        program, *words = shlex.split(line)
        if program == "make":
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True, text=True)
            fits = [f"python {own[own.index('train.py') :]}" for own in done.stdout.splitlines() if "train.py" in own]
            return self.type(fits[0]) if fits else Outcome(0, done.stdout, done.stderr)
        if words[0] != "train.py":
            ran = subprocess.run([sys.executable, *words], cwd=self.shelf, capture_output=True, text=True)
            return Outcome(ran.returncode, ran.stdout, ran.stderr)
        words = self.make_small([self.place(word) for word in words[1:]])
        placeholders = [word for word in words if "path/to" in word and "nowhere" not in word]
        assert not placeholders, f"unknown placeholder: {placeholders}"
        if "--trainer.devices" in words:  # as Lightning starts them, but for the time that two more interpreters take
            return max(run_ranks(words, self.shelf / "output"), key=lambda outcome: outcome.status)
        return run(words, self.shelf / "output") if "--trainer.logger" in words else call(*words)

    def place(self, word: str) -> str:
        """Point a word to small data and models, to the page's own files, and to our folder for what is written."""
        if word.startswith("runs/"):
            return str(self.runs / word.removeprefix("runs/"))
        if (self.shelf / word).is_file():
            return str(self.shelf / word)
        places = {
            "path/to/BAR": lambda: self.small.root("BAR"),
            "path/to/photos": lambda: self.small.root("Folder"),
            "path/to/images": lambda: self.images,
            "path/to/labels.csv": lambda: self.small.root("Table"),
            "path/to/table.csv": lambda: self.table,
            "path/to/blip": lambda: self.small.captioner,
            "path/to/sdxl": lambda: self.small.generator,
        }
        return str(places[word]()) if word in places else word

    @cached_property
    def images(self) -> Path:
        """Class folders with bias labels."""
        return write_folder(self.shelf / "images", biases=("grass", "sofa"))

    @cached_property
    def table(self) -> Path:
        """A table with bias labels, in the column that the page names."""
        table = write_table(self.shelf / "table")
        table.write_text(table.read_text().replace(",bias,", ",background,", 1))
        return table

    def make_small(self, words: list[str]) -> list[str]:
        """Add what makes a command small, before what the page says, whose own flags have the last word."""
        if "--config" not in words:
            return words
        config = ROOT / words[words.index("--config") + 1]
        standard = yaml.safe_load(config.read_text())["data"]["class_path"].startswith("datamodules.")
        # weights that the page asks for belong to the network of the configuration
        backbones = [] if any(word.endswith(".weights") for word in words) else small_backbones(config)
        less = [*self.small(config), *backbones, "--report.enabled=false"] if standard else []
        if words[0] == "sweep":
            return [*first_values(words), *less, "--trainer.max_epochs=1"]
        if "--run_dir" not in words:
            words = [*words, "--run_dir", str(self.runs / config.stem)]
        return [words[0], "--config", str(config), *less, *words[3:], "--trainer.max_epochs", "1"]


def first_values(words: list[str]) -> list[str]:
    """Leave one configuration, one seed, and one value of what a sweep varies."""
    line = re.sub(r"(--(?:config|seeds|vary \S+) \S+)( [^-\s]\S*)+", r"\1", " ".join(words))
    return line.split()


# What is shown


def test_the_readme_shows_all_commands() -> None:
    shown = {own.line.split()[2] for own in commands(ROOT / "README.md") if own.line.startswith("python train.py")}
    assert shown == {"fit", "validate", "test", "predict", "sweep", "table", "report"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_is_run_or_says_what_it_needs(page: Path) -> None:
    files = shown_files(page)
    for own in commands(page):
        program, first, *_ = (*own.line.split(), "")
        runs = program == "make" or (program == "python" and (first == "train.py" or first in files))
        assert runs or own.need, f"{own.line}: run it, or say at its end what it `# needs`"
    known = {own.line for _, own in EVERY}
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for inline in re.findall(r"`((?:python|torchrun|sbatch|hf) [^`…]+)`", prose):
        assert inline in known or inline.endswith(("-h", "--print_config")), f"{inline}: put it into a block"


@pytest.mark.parametrize(("page", "own"), [(p, own) for p, own in EVERY if own.need], ids=page_id)
def test_commands_that_are_not_run_have_known_settings(page: Path, own: Command) -> None:
    _, found, words = own.line.partition("train.py fit ")
    if found:
        outcome = call("fit", *words.split(), "--print_config")
        assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_configs_exist(page: Path) -> None:
    for path in re.findall(r"configs/\w+\.yaml", page.read_text()):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=page_id)
def test_scripts_are_sound(page: Path) -> None:
    for script in blocks(page, "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
        for line in script.replace("\\\n", " ").splitlines():
            if "train.py" in line:
                outcome = call(*line.split("train.py ", 1)[1].split(), "--print_config")
                assert outcome.status == 0, outcome.err


# What is run


RUN = [page for page in PAGES if page != ERRORS and any(not own.need for own in commands(page))]
FIRST = ("README", "own_data")  # what most readers type


@pytest.mark.parametrize(
    "page",
    [page if page.stem in FIRST else pytest.param(page, marks=pytest.mark.slow) for page in RUN],
    ids=page_id,
)
def test_commands(page: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(page, small, tmp_path)
    monkeypatch.syspath_prepend(reader.shelf)
    for own in commands(page):
        if not own.need:
            outcome = reader.type(own.line)
            assert outcome.status == 0, f"{own.line}\n{outcome.err}"
    for name in shown_files(page):
        if name.startswith("test_"):
            tests = [own for key, own in runpy.run_path(str(reader.shelf / name)).items() if key.startswith("test_")]
            assert tests
            for test in tests:
                test()


def sections() -> list[tuple[str, list[str], str]]:
    """Title, commands and error line of every section of the page of errors."""
    found = []
    for part in ERRORS.read_text().split("\n## ")[1:]:
        title, _, rest = part.partition("\n")
        fences = re.findall(r"^```(\w*)\n(.*?)^```", rest, re.MULTILINE | re.DOTALL)
        if fences:
            shown = {language: text.strip() for language, text in fences}
            found.append((title, shown[""].splitlines(), shown["text"]))
    return found


def test_there_are_ten_errors() -> None:
    assert len(sections()) == 10


@pytest.mark.parametrize(("title", "lines", "expected"), sections(), ids=[title for title, *_ in sections()])
def test_errors_are_printed_as_shown(
    title: str, lines: list[str], expected: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("urllib.request._opener", None)  # that of an earlier download would know no proxy
    reader = Reader(ERRORS, small, tmp_path)
    broken = tmp_path / "broken"
    for line in lines:
        if "path/to/broken" in line:
            subprocess.run(["cp", "-r", small.root("Folder"), broken], check=True)
            picture = broken / "train/cat/0001.jpg"
            picture.write_bytes(picture.read_bytes()[:200])
        outcome = reader.type(line.replace("path/to/broken", str(broken)))
    assert outcome.status == 2
    shown = outcome.errors[-1].replace(str(broken), "path/to/broken").replace(str(reader.runs), "runs")
    assert shown == expected

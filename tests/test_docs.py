"""The docs site builds without a warning and without the network, and the pages lead somewhere."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from callbacks.settings import EXECUTION_KEYS
from tests.chain import ROOT

MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the first process of the tests that asks for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build_site(folder)
    return folder


def build_site(folder: Path) -> None:
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto", "docs", str(folder)]
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    built = subprocess.run(words, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True)
    if built.returncode:
        shutil.rmtree(folder, ignore_errors=True)
    assert built.returncode == 0, built.stderr


def test_every_page_is_built(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()


def test_nothing_of_a_page_comes_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.findall(r"<(?:script|img)[^>]+src=\"(?:https?:)?//", page.read_text()), page
        assert not re.findall(r"<link[^>]+href=\"(?:https?:)?//", page.read_text()), page


@pytest.mark.parametrize("name", ["lightning_modules", "datamodules", "callbacks", "callbacks.synthesis"])
def test_the_reference_has_every_public_class(site: Path, name: str) -> None:
    text = (site / "reference" / f"{name.partition('.')[0]}.html").read_text()
    module = importlib.import_module(name)
    for public in module.__all__:
        if getattr(getattr(module, public), "__module__", "builtins") != "builtins":  # not the name of a type
            assert f'id="{name}.{public}"' in text, public


def test_arguments_of_constructors_are_explained(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/lightning_modules.html").read_text())
    assert "exponent in [0, 1]; the larger, the more the easy samples count" in text  # in __init__
    text = re.sub(r"<[^>]+>", "", (site / "reference/callbacks.html").read_text())
    assert "Whether the model may be fetched; without it nothing touches the network" in text  # in the class


def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "metrics.html").read_text()
    assert text.count("<math") > 20
    assert "\\lvert" not in text


def anchors(page: Path) -> set[str]:
    """What headings are called in links, on the code host and on the site alike."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_what_may_change_in_a_run_folder_is_listed() -> None:
    text = (ROOT / "docs/resume.md").read_text()
    for key in EXECUTION_KEYS:
        assert f"`{key.replace('.init_args', '')}`" in text, key


def test_every_metric_is_explained(reference: Path) -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    results = json.loads((reference / "results.json").read_text())
    metrics = {name for row in results["test"].values() for name in row}
    assert {"accuracy", "worst_group", "adjusted"} <= metrics
    for name in metrics:
        assert f"`{name}`" in text, name

"""The page of real runs, made by the command line and at the end of a fit."""

import base64
import csv
import io
import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.chain import ROOT, Outcome, Small, assert_one_line, call, contents

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECTIONS = ["result", "mined", "words", "drawn", "looking", "features", "costs", "origin"]


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page."""

    text: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    section: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag == "section":
            self.section = attributes["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        self.words[self.section] = " ".join(f"{self.words.get(self.section, '')} {data}".split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def table(self, file: str) -> list[dict[str, str]]:
        """The rows of a CSV that can be downloaded."""
        found = next(own for own in self.all("a") if own.get("download") == file)
        text = base64.b64decode(found["href"].partition("base64,")[2]).decode()
        return list(csv.DictReader(io.StringIO(text)))


def read(path: Path) -> Page:
    return Page(path.read_text())


def assert_good(page: Page) -> None:
    """Well-formed, self-contained, and usable with a keyboard and without eyes."""
    assert page.open == []
    assert [own for own in page.all("meta") if own.get("name") == "viewport"]
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert re.match(r"data:|#|$", attributes.get(name, "")), attributes[name]
    assert "url(http" not in page.text
    assert "@import" not in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for own in page.all("a"):
        assert not own["href"].startswith("#") or own["href"][1:] in ids
    assert all(own["alt"] for own in page.all("img"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in own for own in page.all("th") if own)
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert all(own["aria-label"] for own in page.all("div") if own.get("role") == "img")


@pytest.fixture
def run(reference: Path, tmp_path: Path) -> Path:
    """A finished run of our own."""
    return Path(shutil.copytree(reference, tmp_path / "run"))


def report(*words: str | Path) -> Outcome:
    return call("report", *map(str, words))


def test_a_fit_ends_with_a_page_whose_numbers_are_those_of_the_results(reference: Path) -> None:
    page = read(reference / "report.html")
    assert_good(page)
    assert [own["id"].removesuffix("-1") for own in page.all("section")] == SECTIONS
    results = json.loads((reference / "results.json").read_text())
    for name in ("accuracy", "aligned", "conflict", "worst_group"):
        before, after = (f"{100 * results['test'][stage][name]:.1f}" for stage in ("biased", "debiased"))
        assert f"{before} → {after} %" in page.words["result-1"]
    for stage in ("biased", "debiased"):
        rows = [
            (own["class"], own["bias"], int(own["correct"]), int(own["count"]))
            for own in page.table(f"groups-{stage}.csv")
        ]
        assert rows == [(own["label"], own["bias"], own["correct"], own["count"]) for own in results["groups"][stage]]
    selection = json.loads((reference / "synthetic/selection.json").read_text())["items"]
    assert f"The {len(selection)} training images" in page.words["mined-1"]
    hardest = {item["label"]: item["loss"] for item in reversed(selection)}
    for loss in hardest.values():  # one picture of each class
        assert f"loss {loss:.2f}" in page.words["mined-1"]
    captions = json.loads((reference / "synthetic/captions.json").read_text())["items"]
    kept = json.loads((reference / "synthetic/filter.json").read_text())["kept"]
    assert f"{sum(len(own['captions']) for own in captions)} captions" in page.words["mined-1"]
    assert f"dropped {kept.count(False) or 'none'} of them" in page.words["mined-1"]
    drawn = (reference / "synthetic/metadata.jsonl").read_text().splitlines()
    assert f"{len(drawn)} images were drawn" in page.words["drawn-1"]
    assert "could not be shown" not in page.text
    assert len(page.all("img")) == 8 + 2 * 8 + 3 * 12  # mined; drawn and their neighbours; looked at thrice
    assert {own["download"] for own in page.all("a") if "download" in own} >= {
        "mining.csv", "words.csv", "neighbours.csv", "pca-biased-by-class.csv", "pca-debiased-by-source.csv",
    }  # fmt: skip


def test_the_curve_ends_where_the_selection_says(reference: Path) -> None:
    page = read(reference / "report.html")
    items = json.loads((reference / "synthetic/selection.json").read_text())["items"]
    row = next(own for own in page.table("mining.csv") if own["images mined of each class, K"] == "2")
    hits = sum(item["bias"] != item["label"] for item in items)
    assert float(row["precision"]) == pytest.approx(hits / len(items))
    assert f"In truth {100 * hits / len(items):.1f} % of them do" in page.words["mined-1"]


def test_the_command_makes_the_same_page_and_touches_nothing_else(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    outcome = report(run, "--out", tmp_path / "deep/page.html")
    assert outcome.status == 0, outcome.err
    assert f"report: {tmp_path}/deep/page.html" in outcome.out
    assert contents(run) == before
    assert (tmp_path / "deep/page.html").read_text() == (run / "report.html").read_text()
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["page.html"]


def test_easy_images_are_captioned_for_a_run_that_is_over(run: Path) -> None:
    page = read(run / "report.html")
    assert "--explain 25" in page.words["words-1"]
    outcome = report(run, "--explain=3", "--points=30", "--projections", "pca")
    assert outcome.status == 0, outcome.err
    contrast = json.loads((run / "synthetic/contrast.json").read_text())["items"]
    assert len(contrast) == 3 * 8
    page = read(run / "report.html")
    assert_good(page)
    assert "usual" in page.words["words-1"]
    assert "--explain 25" not in page.text
    assert {own["class"] for own in page.table("words.csv")} <= {item["label"] for item in _groups(run)}
    again = report(run, "--explain=5", "--points=30", "--projections", "pca")
    assert again.status == 0
    assert json.loads((run / "synthetic/contrast.json").read_text())["items"] == contrast


def _groups(run: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = json.loads((run / "results.json").read_text())["groups"]["biased"]
    return groups


def test_emissions_provenance_and_rejections_are_shown(run: Path) -> None:
    cost = {"grams_per_kwh": 475, "memory_mib": 512, "gpu_memory_mib": None, "node": 0, "devices": 1, "started": "x"}
    lines = [
        {"phase": "fit", "stage": "biased", "seconds": 61.0, "kwh": 0.5, "grams": 237.5, **cost},
        {"phase": "mining", "stage": "biased", "seconds": 4.5, "kwh": None, "grams": None, **cost},
    ]
    (run / "emissions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    attempt = {
        "command": "python train.py fit --config 'a b.yaml'", "started": "2026-01-02T03:04:05+00:00",
        "commit": "0123abcd", "dirty": True, "packages": {"torch": "9.8.7"}, "python": "3.11.7",
        "platform": "Linux x86_64", "devices": "1 x CPU", "world_size": 1, "seed": 1,
    }  # fmt: skip
    (run / "provenance.jsonl").write_text(json.dumps(attempt) + "\n")
    records = [json.loads(line) for line in (run / "synthetic/metadata.jsonl").read_text().splitlines()]
    rejected = [{**records[0], "verdict": "constant"}, {**records[0], "verdict": "constant", "attempt": 1}]
    (run / "synthetic/rejected.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rejected))
    judged = [{**record, "agreement": 0.25} for record in records]
    (run / "synthetic/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in judged))
    assert report(run, "--points=30", "--projections", "pca").status == 0
    page = read(run / "report.html")
    assert_good(page)
    assert "fit biased 1 min 01 s 0.5 238 512" in page.words["costs-1"]
    assert "2026-01-02 03:04 UTC" in page.words["origin-1"]
    assert "lower bounds" in page.words["costs-1"]
    assert "python train.py fit --config 'a b.yaml'" in page.words["origin-1"]
    for part in ("0123abcd, with changes", "torch 9.8.7", "seed_everything: 1"):
        assert part in page.words["origin-1"]
    assert f"{records[0]['class_name']} constant 2" in page.words["drawn-1"]
    assert "judge 0.25" in page.words["drawn-1"]


def test_an_unfinished_chain_shows_what_there_is(run: Path) -> None:
    (run / "results.json").unlink()
    shutil.rmtree(run / "stages/02-debiased")
    for name in ("metadata.jsonl", "rejected.jsonl", "losses.safetensors"):
        (run / "synthetic" / name).unlink()
    assert report(run, "--points=30", "--projections", "pca").status == 0
    page = read(run / "report.html")
    assert_good(page)
    assert "not finished" in page.words[""]
    test = json.loads((run / "stages/01-biased/test.json").read_text())
    assert f"biased gets {100 * test['accuracy']:.1f} % right" in page.words["result-1"]
    assert "were not kept when this run mined" in page.words["mined-1"]
    assert "No image was drawn" in page.words["drawn-1"]
    assert page.table("pca-biased-by-bias.csv")
    # before the first test there is nothing but the configuration
    shutil.rmtree(run / "stages")
    shutil.rmtree(run / "synthetic")
    assert report(run).status == 0
    page = read(run / "report.html")
    assert_good(page)
    for section in ("result", "looking", "features"):
        assert "has been tested yet" in page.words[f"{section}-1"]
    for section in ("mined", "words", "drawn"):
        assert "nothing was mined or drawn yet" in page.words[f"{section}-1"]


def test_without_the_data_all_that_is_on_the_disk_is_shown(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    folder = {"class_path": "datamodules.BAR", "init_args": {"root": "moved/away"}}
    start, end = text.index("data:\n"), re.search(r"\n\w+:", text[text.index("data:\n") + 5 :])
    assert end is not None
    (run / "config.yaml").write_text(f"{text[:start]}data: {json.dumps(folder)}{text[start + 5 + end.start() :]}")
    outcome = report(run, "--points=30", "--projections", "pca")
    assert outcome.status == 0, outcome.err
    page = read(run / "report.html")
    assert_good(page)
    assert "moved/away" in page.words[""]
    assert "loss" in page.words["mined-1"]
    assert page.table("mining.csv")
    assert page.table("words.csv")
    assert "images were drawn" in page.words["drawn-1"]
    for section in ("drawn", "looking", "features"):
        assert "The data are not at hand" in page.words[f"{section}-1"]


def test_plain_training_says_what_it_has_not(small: Small, tmp_path: Path) -> None:
    config = ROOT / "configs/miniature_vanilla.yaml"
    run = tmp_path / "run"
    assert call("fit", f"--config={config}", *small(config), f"--run_dir={run}", "--model.backbone=mlp",
                "--model.backbone_args={image_size: 32}", "--report.enabled=false").status == 0  # fmt: skip
    assert not (run / "report.html").exists()
    assert report(run, "--points=30", "--projections", "pca", "tsne").status == 0
    page = read(run / "report.html")
    assert_good(page)
    for section in ("mined", "words", "drawn"):
        assert "synthesises nothing" in page.words[f"{section}-1"]
    assert "keep the places" in page.words["looking-1"]
    assert len(page.table("tsne-model-by-class.csv")) == 30
    assert "→" not in page.words["result-1"]


def test_seeds_and_configurations_side_by_side(reference: Path, tmp_path: Path) -> None:
    for number, accuracy in ((1, 0.5), (2, 0.75)):
        run = tmp_path / f"runs/ours/seed-{number}"
        shutil.copytree(reference, run)
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("seed_everything: 1\n", f"seed_everything: {number}\n"))
        results = json.loads((run / "results.json").read_text())
        results["seed"], results["test"]["debiased"]["accuracy"] = number, accuracy
        (run / "results.json").write_text(json.dumps(results))
    other = Path(shutil.copytree(reference, tmp_path / "runs/other"))
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("top_k: 2", "top_k: 3"))
    (tmp_path / "runs/begun").mkdir()
    (tmp_path / "runs/begun/config.yaml").write_text(text)
    out = tmp_path / "page.html"
    outcome = report(tmp_path / "runs", "--out", out, "--points=30", "--pictures=1", "--projections", "pca")
    assert outcome.status == 0, outcome.err
    page = read(out)
    assert_good(page)
    # sample deviation of 50 and 75
    assert "ours debiased 1, 2 62.5 ± 17.7" in page.words["comparison"]
    assert "± -" not in page.words["comparison"]  # of one seed
    assert len(page.all("article")) == 3
    rows = page.table("comparison.csv")
    assert [float(own["accuracy"]) for own in rows if (own["runs"], own["stage"]) == ("ours", "debiased")] == [
        0.5,
        0.75,
    ]
    assert "begun (not finished)" in page.text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere"], ["RUN_DIR", "no folder nowhere"]),
        (["configs"], ["RUN_DIR", "no run in configs"]),
        ([], ["RUN_DIR"]),
        (["RUN", "--points=3"], ["report.points=3", "at least 30"]),
        (["RUN", "--report.points=60"], ["--report.points=60", "it is --points"]),
        (["RUN", "--explain=-2"], ["--explain", "negative"]),
        (["RUN", "what"], ["no folder what"]),
        (["RUN", "--data.rooot=x"], ["rooot"]),
        (["RUN", "OTHER"], ["--out", "2 runs"]),
        (["RUN", "--out=RUN"], ["--out", "is a folder", "report.html"]),
    ],
)
def test_a_mistake_gives_one_line(run: Path, tmp_path: Path, words: list[str], parts: list[str]) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("top_k: 2", "top_k: 3"))
    places = {"RUN": str(run), "OTHER": str(other)}
    outcome = report(*(places.get(word, word.replace("=RUN", f"={run}")) for word in words))
    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for part in parts:
        assert part in lines[0]


def test_data_that_are_not_where_they_are_said_to_be_give_one_line(small: Small, tmp_path: Path) -> None:
    config = ROOT / "configs/folder_vanilla.yaml"
    assert call("fit", f"--config={config}", *small(config), f"--run_dir={tmp_path}").status == 0
    before = (tmp_path / "report.html").read_bytes()
    assert_one_line(report(tmp_path, f"--data.root={tmp_path / 'nowhere'}"), "data.root", "nowhere does not exist")
    assert (tmp_path / "report.html").read_bytes() == before


def test_damaged_files_are_named(run: Path) -> None:
    (run / "synthetic/captions.json").write_text("{")
    outcome = report(run)
    assert outcome.status == 2
    assert "captions.json is damaged" in outcome.err
    (run / "config.yaml").write_text("[1, 2")
    outcome = report(run)
    assert outcome.status == 2
    assert str(run) in outcome.err
    assert "Traceback" not in outcome.err


def test_a_page_that_cannot_be_made_spoils_no_run(run: Path, fit: list[str]) -> None:
    before = (run / "report.html").read_text()
    # an unchanged run keeps its page
    stamp = (run / "report.html").stat().st_mtime_ns
    assert call(*fit, f"--run_dir={run}").status == 0
    assert (run / "report.html").stat().st_mtime_ns == stamp
    # a page that is gone is made again
    (run / "report.html").unlink()
    outcome = call(*fit, f"--run_dir={run}")
    assert (outcome.status, (run / "report.html").read_text()) == (0, before)
    (run / "report.html").unlink()
    (run / "synthetic/captions.json").write_text("{")
    outcome = call(*fit, f"--run_dir={run}")
    assert outcome.status == 0
    assert "run folder" in outcome.out
    assert not (run / "report.html").exists()

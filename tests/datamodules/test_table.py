import importlib.util
import sys
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.base import DebiasDataModule
from datamodules.checking import SPLITS
from datamodules.samples import Split
from datamodules.table import Table
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.layouts.folder import write_images
from tests.layouts.table import write_rows, write_table

COLUMNS = {"bias_column": "bias", "split_column": "split"}
Form = Literal["NFC", "NFD"]
needs_arrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")


def small(file: Path, **options: Any) -> Table:
    return Table(file, **{"image_size": 16, "num_workers": 0, "batch_size": 8, "augment": "none", **options})


def loaded(file: Path, **options: Any) -> Table:
    data = small(file, **options)
    data.setup("fit")
    return data


def rows(root: Path, suffix: str = ".csv", /, **columns: Sequence[object]) -> Path:
    """A table of eight images, four cats and four dogs, with columns added or replaced."""
    names = [f"{number}.png" for number in range(8)]
    write_images(root, names)
    return write_rows(root / f"t{suffix}", {"path": names, "label": ["cat"] * 4 + ["dog"] * 4, **columns})


def positions(data: Table) -> dict[Split, list[int]]:
    """Numbers of the images of each split, for tables of `rows`."""
    found: dict[Split, list[int]] = {}
    for split in SPLITS:
        samples = data.load(split)
        assert not isinstance(samples.images, np.ndarray)
        found[split] = [int(name[0]) for name in samples.images.names]
    return found


@pytest.mark.parametrize("suffix", [".csv", ".tsv", pytest.param(".parquet", marks=needs_arrow)])
def test_a_table_with_everything(tmp_path: Path, suffix: str) -> None:
    data = loaded(write_table(tmp_path, suffix=suffix), **COLUMNS)
    assert data.class_names == ("cat", "dog")
    assert data.bias_names == ("grass", "sofa")
    assert data.train_labels().tolist() == [0] * 6 + [1] * 6
    assert data.train_biases().tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert everything(data.val_dataloader(), "bias").tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert everything(data.test_dataloader(), "image").shape == (12, 3, 16, 16)
    # the rows of training come first, so picture i of the training set is image i
    assert everything(data.train_dataloader(), "index").sort().values.tolist() == list(range(12))


def test_only_path_and_label_are_needed(tmp_path: Path) -> None:
    data = loaded(write_table(tmp_path, per_group=10))
    assert not data.has_bias
    counts = [
        torch.bincount(labels).tolist()
        for labels in (
            data.train_labels(),
            everything(data.val_dataloader(), "label"),
            everything(data.test_dataloader(), "label"),
        )
    ]
    # 120 images, a fifth for the test, a tenth of the rest for validation
    assert counts == [[43, 43], [5, 5], [12, 12]]


@pytest.mark.parametrize(
    "cells",
    [
        ["train", "Train ", "TRAINING", "val", "train", "train", "valid", "test"],
        ["train", "train", "train", "Validation", "train", "train", "val(id)", "TESTING"],
        [0, 0, 0, 1, 0, 0, 1, 2],
    ],
)
def test_ways_to_write_the_split(tmp_path: Path, cells: list[object]) -> None:
    data = small(rows(tmp_path, split=cells), split_column="split")
    assert positions(data) == {"train": [0, 1, 2, 4, 5], "val": [3, 6], "test": [7]}


def test_what_the_split_column_lacks_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "diffubias"):
        found = positions(small(rows(tmp_path, split=["train"] * 6 + ["val"] * 2), split_column="split"))
    assert found["val"] == [6, 7]
    assert sorted(found["train"] + found["test"]) == list(range(6))
    assert len(found["test"]) == 2
    assert "no test split: 2 of the 6 training images are held out for it" in caplog.messages


@pytest.mark.parametrize("cells", [{3: '"Big bird'}, {3: '"Big bird', 6: '"small bird'}])
def test_a_quote_that_is_never_closed_swallows_no_row(tmp_path: Path, cells: dict[int, str]) -> None:
    file = rows(tmp_path)
    lines = [f"{line},{cells.get(number, 'bird')}" for number, line in enumerate(file.read_text().splitlines())]
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"^data\.file: cannot read .*t\.csv up to its end \(.+\); close the quotes"):
        loaded(file)


def test_spaces_around_the_names_of_columns(tmp_path: Path) -> None:
    file = rows(tmp_path)
    file.write_text(file.read_text().replace("path,label", "path , label"))
    assert loaded(file).class_names == ("cat", "dog")


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_form_of_unicode_than_on_the_disk(tmp_path: Path, written: Form, stored: Form) -> None:
    file = rows(tmp_path)
    (tmp_path / "0.png").rename(tmp_path / unicodedata.normalize(stored, "é.png"))
    file.write_text(file.read_text().replace("0.png", unicodedata.normalize(written, "é.png")))
    assert unicodedata.normalize(stored, "é.png") in small(file)._listing.images.names


def test_labels_that_are_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    assert small(rows(tmp_path, label=[1] * 2 + [-1] * 2 + [0.25] * 2 + [0.5] * 2)).class_names == (
        "-1", "0.25", "0.5", "1",
    )  # fmt: skip


def test_columns_of_other_names_and_a_root(tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "größe 1", ["ä b.png", "c.png", "d.png", "e.png"])
    paths = [f"größe 1/{name}.png" for name in ("ä b", "c", "d", "e")]
    file = write_rows(tmp_path / "lists" / "my.csv", {"id": range(4), "wo ist": paths, "y": ["ja", "ja", "nö", "nö"]})
    data = small(file, root=tmp_path / "images", path_column="wo ist", label_column="y", test_fraction=0.5)
    assert data.class_names == ("ja", "nö")
    assert sorted(data._listing.images.names) == sorted(paths)


def test_absolute_paths(tmp_path: Path) -> None:
    file = rows(tmp_path / "a", path=[f"{tmp_path}/a/{number}.png" for number in range(8)])
    moved = file.rename(tmp_path / "t.csv")
    data = loaded(moved)
    assert len(data.train_labels()) == 4
    assert data.source_image(0).mode == "RGB"


def test_images_in_a_zip(tmp_path: Path) -> None:
    file = write_table(tmp_path, suffix=".csv")
    with zipfile.ZipFile(tmp_path / "img.zip", "w") as archive:
        for path in sorted((tmp_path / "img").iterdir()):
            archive.write(path, f"img/{path.name}")
    one, other = (loaded(file, root=root, **COLUMNS) for root in (tmp_path / "img.zip", tmp_path))
    assert torch.equal(everything(one.test_dataloader(), "image"), everything(other.test_dataloader(), "image"))


def test_an_empty_bias_is_unknown(tmp_path: Path) -> None:
    biases = ["grass", "grass", "", "", "sofa", "sofa", " ", "grass"]
    data = small(rows(tmp_path, bias=biases), bias_column="bias")
    assert data.bias_names == ("grass", "sofa")
    assert data._biases.tolist() == [0, 0, -1, -1, 1, 1, -1, 0]


def test_an_empty_bias_column(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.bias_column=bias: the column is empty in .*t\.csv; fill it in or leave"
    ):
        loaded(rows(tmp_path, bias=["", " "] * 4), bias_column="bias")


def test_given_names_set_the_order(tmp_path: Path) -> None:
    data = small(
        rows(tmp_path, bias=["sofa", "grass"] * 4),
        bias_column="bias",
        classes=["dog", "cat"],
        biases=["sofa", "grass", "sea"],
    )
    assert data.class_names == ("dog", "cat")
    assert data._labels.tolist() == [1] * 4 + [0] * 4
    assert data.bias_names == ("sofa", "grass", "sea")
    assert data._biases.tolist() == [0, 1] * 4


def test_given_names_of_numbers(tmp_path: Path) -> None:
    file = rows(tmp_path, label=[1, 0] * 4, place=[0, 0, 0, 0, 1, 1, 1, ""])
    data = small(file, bias_column="place", classes=["landbird", "waterbird"], biases=["land", "water"])
    assert data.class_names == ("landbird", "waterbird")
    assert data._labels.tolist() == [1, 0] * 4
    assert data._biases.tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
    # names that are numbers themselves are names and not positions
    assert small(file, classes=["1", "0"])._labels.tolist() == [0, 1] * 4


def test_semicolons_a_mark_and_quoted_cells(tmp_path: Path) -> None:
    write_images(tmp_path, ["a;b.png", "c.png", "d.png", "e.png"])
    text = '\ufeffpath;label\r\n"a;b.png"; cat \r\nc.png;cat\r\n\r\nd.png;"big, dog"\r\ne.png;"big, dog"\r\n'
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    data = small(tmp_path / "t.csv")
    assert data.class_names == ("big, dog", "cat")
    assert data._listing.images.names == ["a;b.png", "c.png", "d.png", "e.png"]


@needs_arrow
def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "label": [1.0, 0.0] * 4,
        "bias": [0.0, float("nan"), None, 1.0] * 2,
        "split": [0, 0, 1, 2, 0, 0, 0, 0],
    }
    data = small(rows(tmp_path, ".parquet", **columns), **COLUMNS, classes=["no", "yes"])
    assert data._labels.tolist() == [1, 0] * 4
    assert data.bias_names == ("0", "1")
    assert data._biases.tolist() == [0, -1, -1, 1] * 2
    assert positions(data)["test"] == [3]


@needs_arrow
def test_a_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigError, match=r"^data\.file: cannot read .*t\.parquet \(.*\); write it again"):
        small(tmp_path / "t.parquet").setup("fit")


@needs_arrow
def test_a_missing_column_of_a_parquet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.bias_column=bg: .* has the columns path, label, bias, split; name"):
        loaded(write_table(tmp_path, suffix=".parquet"), bias_column="bg")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as Python marks a module that cannot be imported
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ConfigError, match=r"needs pyarrow, which is not installed; pip install -e '\.\[parquet\]'"):
        loaded(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"path_column": "file"}, r"^data\.path_column=file: .*t\.csv has the columns path, label; name one of them$"),
        ({"label_column": "y"}, r"^data\.label_column=y: "),
        ({"bias_column": "bg"}, r"^data\.bias_column=bg: "),
        ({"split_column": "fold"}, r"^data\.split_column=fold: "),
        ({"bias_column": "label"}, r"^data\.bias_column=label: it is data\.label_column too; name another column"),
        (
            {"classes": ["cat"]},
            r"^data\.file: row 5 of .*t\.csv \(4\.png\) has 'dog', which is none of data\.classes; ",
        ),
        ({"classes": ["cat", "dog", "cat"]}, r"^data\.classes: a name comes twice"),
        ({"classes": ["cat", "dog", "eel"]}, r"class 'eel' of Table has no training sample"),
        ({"biases": ["a"]}, r"^data\.biases: .*set data\.bias_column too"),
        ({"root": "nowhere"}, r"^data\.root: nowhere does not exist"),
    ],
)
def test_wrong_options(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(rows(tmp_path), **option)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["cat"] * 3 + [""] + ["dog"] * 4}, r"row 4 of .* \(3\.png\) has no label; fill it in or delete"),
        ({"label": ["cat"] * 8}, r"the only class is 'cat'"),
        ({"label": range(8)}, r"split: data\.label_column has 8 different values for 8 images; add some$"),
        ({"split": ["a\nb" * 1000] * 8}, r"row 1 of .* has the split 'a b[ab ]{94}\.\.\.'; write train"),
        (
            {"path": [f"img\\{n}.png" for n in range(8)]},
            r"8 of 8 images are missing; write / in place of \\ in the column path$",
        ),
        (
            {"bias": ["a", "b"] * 3 + ["c", "a"]},
            r"row 7 of .* has 'c', which is none of data\.biases; .* which has a, b$",
        ),
        ({"split": ["train", "fold 2"] * 4}, r"row 2 of .* has the split 'fold 2'; write train, val or test"),
        ({"split": ["train"] * 7 + [""]}, r"row 8 of .* has the split ''; write"),
        ({"split": ["val", "test"] * 4}, r"^data\.file: there is no training image"),
        ({"split": ["train"] * 4 + ["test"] * 4}, r"the only class is 'cat'"),
        (
            {"path": [f"{n}.png" for n in (0, 1, 2, 3, 4, 5, 6, 1)]},
            r"row 8 of .*has the image of row 2 again; an image",
        ),
        ({"path": [f"{n}.png" for n in range(7)] + ["./x/../3.png"]}, r"row 8 of .* has the image of row 4 again"),
        ({"path": [f"{n}.png" for n in range(7)] + [""]}, r"row 8 of .* has no path; fill it in"),
        (
            {"path": [f"{n}.jpg" for n in range(8)]},
            r"row 1 .* leads to .*0\.jpg: 8 of 8 images are missing; set data.ro",
        ),
        (
            {"path": [f"{n}.png" for n in range(7)] + ["no.png"]},
            r"row 8 .*no\.png: the image is missing; set data.root",
        ),
    ],
)
def test_wrong_rows(tmp_path: Path, columns: dict[str, Sequence[object]], message: str) -> None:
    options = {f"{name}_column": name for name in columns if name in ("bias", "split")}
    names = {"biases": ["a", "b"]} if "bias" in columns else {}
    with pytest.raises(ConfigError, match=message) as error:
        loaded(rows(tmp_path, **columns), **options, **names)
    assert "\n" not in str(error.value)


def test_a_class_that_only_the_test_set_has(tmp_path: Path) -> None:
    columns = {"label": ["cat", "dog"] * 3 + ["eel"] * 2, "split": ["train"] * 6 + ["test"] * 2}
    with pytest.raises(ConfigError, match=r"^data\.file: .*6\.png of the test split is of class 'eel', which no train"):
        loaded(rows(tmp_path, **columns), split_column="split")


def test_the_same_image_by_an_absolute_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the image of row 1 again"):
        loaded(rows(tmp_path, path=[*(f"{n}.png" for n in range(7)), f"{tmp_path}/0.png"]))


def test_the_same_image_by_an_absolute_path_beside_a_relative_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(tmp_path, path=[*(f"{n}.png" for n in range(7)), f"{tmp_path}/0.png"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="has the image of row 1 again"):
        loaded(Path("t.csv"))


def test_bias_labels_that_training_lacks(tmp_path: Path) -> None:
    columns = {"split": ["train", "train", "val", "test"] * 2, "bias": ["", "", "a", "b", "", "", "b", "a"]}
    options = {**COLUMNS, "batch_size": 2}
    with pytest.raises(ConfigError, match=r"^data\.aligned: the bias that goes with class 'cat' cannot be counted"):
        loaded(rows(tmp_path, **columns), **options)
    data = loaded(rows(tmp_path, **columns), **options, aligned={"cat": "b", "dog": "a"})
    assert data.aligned_bias == (1, 0)
    assert everything(data.test_dataloader(), "bias").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", None, r"^data\.file: .*t\.csv does not exist; give a table with the columns path and label"),
        ("t.xlsx", b"PK", r"^data\.file: .*t\.xlsx ends in neither \.csv, \.tsv nor \.parquet"),
        ("t.csv", b"", r"^data\.file: .*t\.csv is empty"),
        ("t.csv", b"path,label\n", r"^data\.file: .*t\.csv has no row"),
        (
            "t.csv",
            b"path,label\na.png,cat,big\n",
            r"^data\.file: line 2 of .*t\.csv has more cells than the first line",
        ),
        ("t.csv", b"path,label,x,x,label\n", r"^data\.file: .*t\.csv has the column label twice; rename one$"),
        ("t.csv", b"path|label\n", r"has the columns path\|label; .*; is the separator a comma or a semicolon\?$"),
        ("t.tsv", b"path,label\n", r"has the columns path,label; name one of them; is the separator a tab\?$"),
        (
            "t.csv",
            b'path,label\n"' + b"a.png,cat\n" * 100,
            r"^data\.file: cannot read \S+t\.csv up to its end \(unexpected end of data\); close the quotes",
        ),
        ("t.csv", b"path,label\n" + b"x" * 200_000, r"^data\.file: cannot read .* up to its end \(field larger"),
        ("t.csv", b"path,label\na.png\n", r"row 1 of .*t\.csv \(a\.png\) has no label"),
        ("t.tsv", "path\tlabel\nä.png\tcat\n".encode("latin-1"), r"^data\.file: cannot read .*t\.tsv \('utf-8' codec"),
    ],
)
def test_wrong_tables(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path / name)


def test_the_command_line_reaches_every_argument(tmp_path: Path) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(DebiasDataModule, "data", subclass_mode=True)
    file = rows(tmp_path, label=[1, 0] * 4, bg=[0, 7] * 4)
    words = ["--data=datamodules.table.Table", f"--data.file={file}", "--data.classes=[1, 0]", "--data.cache=true"]
    words += ["--data.bias_column=bg", "--data.aligned={0: 0, 1: 7}", "--data.broken=skip", "--data.seed=3"]
    data = parser.instantiate(parser.parse_args([*words, "--data.val_fraction=0.2", "--data.test_fraction=0.4"])).data
    assert isinstance(data, Table)
    assert (data.class_names, data.bias_names, data.aligned_bias) == (("1", "0"), ("0", "7"), (1, 0))
    assert (data.broken, data.test_fraction, data.cache, data.val_fraction, data.seed) == ("skip", 0.4, True, 0.2, 3)


def test_texts_stay_with_their_images(tmp_path: Path) -> None:
    texts = ["one", "two", "", "four", "five", "six", "seven", "eight"]
    splits = ["train", "val", "train", "test", "train", "train", "val", "train"]
    file = rows(tmp_path, text=texts, split=splits)
    (tmp_path / "4.png").write_bytes(b"broken")
    data = loaded(file, text_column="text", split_column="split", broken="skip")
    assert data.split_texts("train") == [["one"], [], ["six"], ["eight"]]
    assert data.split_texts("val") == [["two"], ["seven"]]
    assert loaded(rows(tmp_path / "plain")).split_texts("train") is None
    held_out = loaded(rows(tmp_path / "held_out", text=[f"text {number}" for number in range(8)]), text_column="text")
    for split, numbers in positions(held_out).items():
        assert held_out.split_texts(split) == [[f"text {number}"] for number in numbers]
    with pytest.raises(ConfigError, match=r"data\.text_column=text: the column is empty"):
        loaded(rows(tmp_path / "empty", text=[""] * 8), text_column="text")
    with pytest.raises(ConfigError, match=r"data\.text_column=caption: .* has the columns"):
        loaded(rows(tmp_path / "none"), text_column="caption")

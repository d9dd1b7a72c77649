import base64
import re

import numpy as np

from callbacks.report.charts import INK, Chart, colours, histogram, lines_chart, scatter, stacked_bars


def rows(chart: Chart) -> list[str]:
    return base64.b64decode(chart.csv.partition("base64,")[2]).decode().splitlines()


def every_kind() -> list[Chart]:
    k = np.array([1, 10, 100])
    curve = np.array([1.0, 0.5, 0.25])
    return [
        lines_chart("Curve", k, {"precision": curve, "recall": curve[::-1]}, ("K", "share"), "curve.csv", 10, 0.1),
        histogram(
            "Spread", {"real": np.array([1.0, 2.0]), "generated": np.array([0.5, 3.0])}, "distance", "spread.csv"
        ),
        scatter("Points", np.eye(2, dtype=np.float32), np.array([0, 1]), ["<dog>", "cat"], "points.csv"),
        scatter("Points", np.eye(2, dtype=np.float32), np.array([0, 1]), ["<dog>", "cat"], "more points.csv"),
        stacked_bars("Time", {"a & b": {"fit": 1.0, "test": 0.5}, "c": {"fit": 2.0}}, "minutes", "time.csv"),
    ]


def test_a_dollar_is_a_dollar() -> None:
    chart = stacked_bars("Time", {"a$x_{$": {"fit": 1.0}}, "minutes", "time.csv")
    assert "a$x_{$" in chart.svg


def test_they_take_the_colour_of_the_text_and_fit_any_width() -> None:
    for chart in every_kind():
        head = chart.svg.partition(">")[0]
        assert head.startswith("<svg")
        assert "viewBox" in head
        assert " width=" not in head
        assert INK not in chart.svg
        assert "#000000" not in chart.svg.replace("fill: #000000", "")
    assert all("currentColor" in chart.svg for chart in every_kind() if chart.title != "Points")


def test_ids_are_unique_on_a_page_and_lead_somewhere() -> None:
    page = "".join(chart.svg for chart in every_kind())
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page))
    assert used == set(ids)


def test_the_same_numbers_give_the_same_chart() -> None:
    assert every_kind() == every_kind()


def test_numbers_go_with_them() -> None:
    curve, spread, points, _, bars = every_kind()
    assert rows(curve) == ["K,precision,recall", "1,1.0,0.25", "10,0.5,0.5", "100,0.25,1.0"]
    assert rows(spread)[0] == "from,to,real,generated"
    assert sum(float(row.split(",")[2]) for row in rows(spread)[1:]) == 1
    assert rows(points) == ["x,y,group", "1.0000,0.0000,<dog>", "0.0000,1.0000,cat"]
    assert rows(bars) == ["run,phase,minutes", "a & b,fit,1.0", "a & b,test,0.5", "c,fit,2.0"]


def test_points_of_no_group_are_left_out() -> None:
    chart = scatter("Points", np.zeros((3, 2), np.float32), np.array([0, -1, 1]), ["dog", "cat"], "points.csv")
    assert [row.rsplit(",", 1)[1] for row in rows(chart)] == ["group", "dog", "cat"]


def test_many_classes_have_a_colour_each() -> None:
    assert len(set(colours(40))) == 40
    assert colours(3) == colours(10)[:3]

"""What phases cost: who is charged, what is written, and that nothing of it hurts a run."""

import json
import logging
import os
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from callbacks.emissions import Meter
from callbacks.emissions_log import EMISSIONS, append_records, describe, read_records, recover, total, write_open
from callbacks.energy import EnergyReader
from lightning_modules import ConfigError
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer

FIELDS = [
    "phase", "stage", "started", "seconds", "kwh", "grams", "grams_per_kwh", "memory_mib", "gpu_memory_mib", "node",
    "devices",
]  # fmt: skip


def make_meter(folder: Path, **settings: Any) -> Meter:
    meter = Meter(**settings)
    meter.check()
    meter.directory = folder
    meter.watch("biased", make_trainer(folder))
    return meter


def work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def record(started: str = "2025-01-01T00:00:00.000+00:00", **changes: Any) -> dict[str, Any]:
    own = {
        "phase": "fit",
        "stage": "biased",
        "started": started,
        "seconds": 60.0,
        "kwh": 0.5,
        "grams": 100.0,
        "node": 0,
    }
    return own | changes


def test_a_phase_inside_another_is_charged_once(tmp_path: Path) -> None:
    meter = make_meter(tmp_path, grams_per_kwh=1000.0)
    whole: list[float] = []
    reader = EnergyReader(whole.append, [], "machine")
    start = time.monotonic()
    with meter.phase("fit"):
        work(0.5)
        with meter.phase("mining"):
            work(2.5)
        work(0.5)
    seconds = time.monotonic() - start
    reader.stop()
    mining, fit = read_records(tmp_path)
    assert [list(own) for own in (mining, fit)] == [FIELDS] * 2
    assert [(own["phase"], own["stage"]) for own in (mining, fit)] == [("mining", "biased"), ("fit", "biased")]
    assert mining["seconds"] == pytest.approx(2.5, abs=0.5)
    assert mining["seconds"] + fit["seconds"] == pytest.approx(seconds, abs=0.2)
    # a second reader over the same time agrees with the sum: charging mining twice would be 70 % more
    assert mining["kwh"] + fit["kwh"] == pytest.approx(whole[-1], rel=0.3)
    assert 0 < fit["kwh"] < mining["kwh"]
    assert mining["grams"] == pytest.approx(1000 * mining["kwh"])
    assert (mining["grams_per_kwh"], mining["node"], mining["devices"]) == (1000.0, 0, "1 x CPU")
    assert mining["gpu_memory_mib"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [EMISSIONS]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot forget a peak")
def test_memory_is_the_peak_of_the_phase(tmp_path: Path) -> None:
    meter = make_meter(tmp_path)
    for name, size in (("captioning", 400), ("generation", 50)):
        with meter.phase(name):
            held = bytearray(size * 2**20)
            del held
    large, small = (own["memory_mib"] for own in read_records(tmp_path))
    # readings are taken in turns: the small peak may fall between two of them
    assert 300 < large - small < 450


def timers() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_a_phase_that_fails_has_its_record(tmp_path: Path) -> None:
    meter = make_meter(tmp_path)
    with pytest.raises(KeyboardInterrupt), meter.phase("fit"), meter.phase("generation"):
        raise KeyboardInterrupt
    assert [own["phase"] for own in read_records(tmp_path)] == ["generation", "fit"]
    # readings have come to an end: no thread of them is left, or takes its place, once those that are ending have ended
    for thread in timers():
        thread.join(10)
    assert not timers()


def test_a_phase_that_is_over_has_none_but_those_inside_have(tmp_path: Path) -> None:
    meter = make_meter(tmp_path)
    (tmp_path / "fit_done").touch()
    with meter.phase("fit", tmp_path / "fit_done"), meter.phase("mining", tmp_path / "selection.json"):
        work(0.2)
    (mining,) = read_records(tmp_path)
    assert mining["phase"] == "mining"
    assert mining["kwh"] > 0


def test_a_phase_is_over_when_all_that_it_leaves_is_there(tmp_path: Path) -> None:
    meter = make_meter(tmp_path)
    results = [tmp_path / "captions.json", tmp_path / "filter.json"]
    for result in results:
        with meter.phase("captioning", *results):
            result.touch()
    with meter.phase("captioning", *results):
        pass
    assert len(read_records(tmp_path)) == 2


def test_switched_off(tmp_path: Path) -> None:
    meter = make_meter(tmp_path, enabled=False)
    with meter.phase("fit"):
        pass
    assert meter.total() is None
    assert not list(tmp_path.iterdir())


# Kills


def be_killed(folder: Path) -> None:
    meter = make_meter(folder)
    with meter.phase("fit"):
        work(0.3)
        with meter.phase("mining"):
            pass
        with meter.phase("captioning"):
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    process = get_context("forkserver").Process(target=be_killed, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [own["phase"] for own in read_records(tmp_path)] == ["mining"]
    left = tmp_path / "emissions-open-0.json"
    content = left.read_bytes()
    for _ in range(2):  # the second time as if a kill had come right before the file was removed
        left.write_bytes(content)
        make_meter(tmp_path)
        found = read_records(tmp_path)
        assert [own["phase"] for own in found] == ["mining", "fit", "captioning"]
        assert found[1]["seconds"] > 0.2
        assert found[1]["kwh"] > 0
        assert not left.exists()


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    append_records(tmp_path, [record()])
    with (tmp_path / EMISSIONS).open("a") as file:
        file.write('{"phase": "te')
    append_records(tmp_path, [record("later")])
    assert [own["started"] for own in read_records(tmp_path)] == [record()["started"], "later"]


def test_what_another_node_has_left_is_its_own_until_the_end(tmp_path: Path) -> None:
    for node in (0, 1, 11):
        write_open(tmp_path, node, [record(node=node)])
    recover(tmp_path, 1)
    assert [own["node"] for own in read_records(tmp_path)] == [1]
    recover(tmp_path)
    assert sorted(own["node"] for own in read_records(tmp_path)) == [0, 1, 11]
    assert [path.name for path in tmp_path.iterdir()] == [EMISSIONS]


# Several processes


def measure(rank: int, world_size: int, folder: str) -> int:
    meter = Meter()
    meter.directory = Path(folder)
    trainer = make_trainer(Path(folder), strategy="ddp", devices=world_size)
    meter.watch("biased", trainer)
    with meter.phase("fit"):
        pass
    return trainer.local_rank


def test_one_process_of_a_node_measures(tmp_path: Path) -> None:
    assert run_ddp(as_launched, measure, str(tmp_path)) == [0, 1]
    (own,) = read_records(tmp_path)
    assert (own["node"], own["devices"]) == (0, "2 x CPU")


def append_many(rank: int, world_size: int, folder: str) -> None:
    for number in range(20):
        append_records(Path(folder), [record(str(number), node=rank)])


def test_nodes_append_at_the_same_time(tmp_path: Path) -> None:
    run_ddp(append_many, str(tmp_path))
    found = sorted((own["node"], int(own["started"])) for own in read_records(tmp_path))
    assert found == [(node, number) for node in range(2) for number in range(20)]
    assert total(read_records(tmp_path)) == {"kwh": 20.0, "grams": 4000.0, "complete": True, "minutes": 20.0}


# Sums and settings


def test_sums() -> None:
    unknown = record(kwh=None, grams=None, seconds=30.0)
    costs = total([record(), unknown])
    assert costs == {"kwh": 0.5, "grams": 100.0, "complete": False, "minutes": 1.5}
    assert describe(costs) == "energy: at least 0.5 kWh, 100.0 g CO2e, 1.5 minutes"
    costs = total([unknown])
    assert costs == {"kwh": None, "grams": None, "complete": False, "minutes": 0.5}
    assert describe(costs) == "energy: not known, 0.5 minutes"


def test_the_electricity_of_a_country(tmp_path: Path) -> None:
    factors = {country: make_meter(tmp_path, country=country).grams_per_kwh for country in ("FRA", "POL")}
    assert factors["FRA"] < 100 < 400 < factors["POL"]  # nuclear power and coal
    assert make_meter(tmp_path).grams_per_kwh == 475.0


@pytest.mark.parametrize(
    ("settings", "parts"),
    [({"country": "France"}, ["emissions.country=France", "FRA"]), ({"grams_per_kwh": -1.0}, ["grams_per_kwh", "-1"])],
)
def test_mistakes(settings: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_meter(tmp_path, **settings)
    assert all(part in str(caught.value) for part in parts)


# What fails, and what must not happen


def test_without_codecarbon_time_and_memory_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    monkeypatch.delitem(sys.modules, "callbacks.energy")
    meter = make_meter(tmp_path, country="FRA")
    with caplog.at_level(logging.WARNING, "diffubias"):
        for name in ("fit", "test"):
            with meter.phase(name):
                work(0.1)
    found = read_records(tmp_path)
    assert [(own["phase"], own["kwh"], own["grams"]) for own in found] == [("fit", None, None), ("test", None, None)]
    assert all(own["seconds"] > 0.05 and own["memory_mib"] > 10 for own in found)
    (warning,) = (own.getMessage() for own in caplog.records if own.name == "diffubias")
    assert "only time and memory are recorded" in warning


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meter = make_meter(tmp_path)
    meter.directory = tmp_path / "file"
    meter.directory.touch()
    with caplog.at_level(logging.WARNING, "diffubias"), meter.phase("fit"):
        done = True
    assert done
    assert "the run goes on" in caplog.text


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that CodeCarbon could report to, and the requests that it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(self.path)
            self.send_response(201)
            self.end_headers()

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as own:
        threading.Thread(target=own.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{own.server_address[1]}", requests
        own.shutdown()


def test_a_configuration_of_the_user_writes_and_sends_nothing(
    server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    address, requests = server
    home = tmp_path / "home"
    home.mkdir()
    settings = {"save_to_file": "true", "output_methods": "csv,api", "emissions_endpoint": address, "log_level": "info"}
    settings |= {"api_endpoint": address, "electricitymaps_api_token": "x", "allow_multiple_runs": "false"}
    lines = [f"{key} = {value}" for key, value in settings.items()]
    (home / ".codecarbon.config").write_text("\n".join(["[codecarbon]", *lines]))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    meter = make_meter(tmp_path / "run")
    capfd.readouterr()
    with meter.phase("fit"):
        work(0.2)
    assert json.loads((tmp_path / "run" / EMISSIONS).read_text())["kwh"] > 0
    assert [path.name for path in home.iterdir()] == [".codecarbon.config"]
    assert capfd.readouterr() == ("", "")
    assert not requests

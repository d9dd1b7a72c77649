"""Peak memory of reading a manifest of 100,000 images against one of 1,000.

    python -m benchmarks.manifest_memory

Every reading is a process of its own. What the imports take, measured in processes that only import, is subtracted. The
last rows keep the records as a list of dicts, as ``json.loads`` gives them, for comparison.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measuring import RESULTS, ROOT, Row, report
from callbacks.synthesis.manifest import IMAGES, MANIFEST, image_name, write_manifest

# The peak is set back after the imports, which need more for a moment than they keep.
CHILD = """
import json, resource, sys
from pathlib import Path
from datamodules.manifest import read_manifest
way, folder = sys.argv[1], Path(sys.argv[2])
Path("/proc/self/clear_refs").write_text("5")
if way == "read_manifest":
    kept = read_manifest(folder)
elif way == "list of dicts":
    kept = [json.loads(line) for line in (folder / "metadata.jsonl").open()]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_set(folder: Path, count: int) -> None:
    """Write a manifest with full records, and empty files in the place of its images."""
    (folder / IMAGES).mkdir(parents=True)
    text = "a small red star on a snowy field"
    record = {
        "label": 3, "class_name": "star", "bias": -1, "source_index": 1234, "caption": text, "prompt": text,
        "seed": 2**62, "attempt": 0, "generator": "assets/miniature/text2image", "revision": None, "steps": 7,
        "guidance": 3.0, "verdict": "keep", "agreement": None, "weight": 1.0, "sha256": "0" * 64,
    }  # fmt: skip
    for number in range(count):
        (folder / image_name(number)).touch()
    write_manifest(folder, ({**record, "file_name": image_name(number)} for number in range(count)), [])


def peak(way: str, folder: Path) -> float:
    """Peak resident memory of a fresh process, in MiB."""
    command = [sys.executable, "-c", CHILD, way, str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def main() -> None:
    """Measure in turns and take medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Processes of each kind.")
    parser.add_argument("--records", type=int, nargs=2, default=[1_000, 100_000], help="The two sizes.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    small, large = arguments.records
    with tempfile.TemporaryDirectory() as temporary:
        folders = {count: Path(temporary) / str(count) for count in (small, large)}
        for count, folder in folders.items():
            write_set(folder, count)
        size = (folders[large] / MANIFEST).stat().st_size / 2**20
        kinds = [("imports only", small), *((way, n) for way in ("read_manifest", "list of dicts") for n in folders)]
        peaks: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
        for _ in range(arguments.rounds):
            for way, count in kinds:
                peaks[way, count].append(peak(way, folders[count]))
    medians = {kind: median(values) for kind, values in peaks.items()}
    base, noise = medians[kinds[0]], max(peaks[kinds[0]]) - min(peaks[kinds[0]])
    rows = [
        Row(f"size of the manifest of {large} images", size, "MiB"),
        Row("peak of a process that only imports", base, "MiB"),
        Row(f"largest difference between {arguments.rounds} such processes", noise, "MiB"),
    ]
    for way, target in (("read_manifest", "flat"), ("list of dicts", "")):
        for count in (small, large):
            rows.append(Row(f"{way}, {count} records: increase", medians[way, count] - base, "MiB"))
        ratio = medians[way, large] / medians[way, small]
        rows.append(Row(f"{way}: peak with {large} against {small} records", medians[way, large], "MiB", ratio, target))
    report("manifest_memory", rows, arguments.folder)


if __name__ == "__main__":
    main()

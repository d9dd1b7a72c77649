"""Time and size of the report of a run with 10,000 synthetic images.

    python -m benchmarks.report_time

Fits the embedded default for an epoch a stage, draws the images, and makes the report of it in a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import RESULTS, ROOT, Row, report
from callbacks.report.settings import FILE
from datamodules.miniature_world import SHAPES


def main() -> None:
    """Fit, make the report, and tell what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="Synthetic images, a multiple of 8.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        fit = ["--config", "configs/miniature.yaml", "--run_dir", str(run), "--report.enabled", "false"]
        fit += ["--stages.biased.max_epochs", "1", "--stages.debiased.max_epochs", "1"]
        fit += ["--synthesize.images", str(arguments.images // len(SHAPES))]
        subprocess.run([sys.executable, "train.py", "fit", *fit], cwd=ROOT, check=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "train.py", "report", str(run)], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        size = (run / FILE).stat().st_size / 2**20
    name = f"report of a run with {arguments.images} synthetic images"
    rows = [Row(f"{name}: time", seconds, "s", target="<= 60"), Row(f"{name}: size", size, "MiB", target="<= 10")]
    report("report_time", rows, arguments.folder)


if __name__ == "__main__":
    main()

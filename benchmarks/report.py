"""Writing the report of many rows: seconds, CPU seconds, peak memory of the process, bytes.

python benchmarks/report.py --rows 10000 100000 [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.report_out import make_out, result
from vace_batch.job import Job

_CODE = "import sys; from vace_batch.report.write import write_report; write_report(sys.argv[1])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--keep", type=Path, help="Keep the output folders below this one.")
    asked = parser.parse_args()
    print("rows       seconds  CPU s  peak MB  report MB")
    with tempfile.TemporaryDirectory() as scratch:
        for rows in asked.rows:
            out = (asked.keep or Path(scratch)) / f"rows-{rows}"
            words = ("person", "car", "dog", "logo", "bicycle")
            jobs = [
                Job(
                    job_id=f"reel-{number // 500:03d}/shot-{number:06d}",
                    video_uri=f"s3://archive/reels/{number // 500:03d}/shot-{number:06d}.mxf",
                    task="restyle" if number % 8 == 6 else "removal",
                    targets=(words[number % 5],),
                )
                for number in range(rows)
            ]
            make_out(out, jobs, map(result, range(rows)))
            del jobs
            started = time.monotonic()
            child = subprocess.Popen([sys.executable, "-c", _CODE, str(out)])
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise SystemExit(status)
            took, cpu_s = time.monotonic() - started, usage.ru_utime + usage.ru_stime
            size = sum(path.stat().st_size for path in (out / "report").rglob("*") if path.is_file())
            print(f"{rows:<10} {took:7.1f} {cpu_s:6.1f} {usage.ru_maxrss / 1024:8.0f} {size / 1e6:10.1f}", flush=True)


if __name__ == "__main__":
    main()

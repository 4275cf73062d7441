"""Measure writing the report of many rows: seconds, CPU seconds, peak memory of the process, bytes.

python benchmarks/report.py --rows 10000 100000 [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.report_out import make_out, result
from vace_batch.manifest.job import Job

# Of the kernel's own account: getrusage would count this process, too, which the child was until its exec.
_CODE = """
import sys
from vace_batch.report.writer import write_report
write_report(sys.argv[1])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


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
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-c", _CODE, str(out)]
            peak_kb = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            size = sum(path.stat().st_size for path in (out / "report").rglob("*") if path.is_file())
            print(f"{rows:<10} {took:7.1f} {cpu_s:6.1f} {peak_kb / 1024:8.0f} {size / 1e6:10.1f}", flush=True)


if __name__ == "__main__":
    main()

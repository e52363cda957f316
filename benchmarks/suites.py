"""A second run of a suite against its first: it must cost less than a quarter and give the same tables.

    python benchmarks/suites.py [params/sample.yaml]

Both runs are whole commands, start-up included, into a temporary folder.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 0.25


def run(parameters, outputs):
    """Seconds of one `report` command, and the bytes of the tables it leaves."""
    command = [sys.executable, "-m", "clipsafe_utils", "report", "-f", parameters, "-p", "outputs", outputs]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return seconds, {path.name: path.read_bytes() for path in Path(outputs).glob("*/tables/*")}


def main():
    parameters = sys.argv[1] if len(sys.argv) > 1 else "params/sample.yaml"
    with tempfile.TemporaryDirectory() as outputs:
        first, tables = run(parameters, outputs)
        second, again = run(parameters, outputs)
    ratio = second / first
    print(f"{parameters}: first run {first:.1f} s, second {second:.1f} s, ratio {ratio:.3f} (limit {LIMIT})")
    print(f"{len(tables)} table files, {'identical' if tables == again else 'DIFFERENT'}")
    return int(ratio > LIMIT or tables != again or not tables)


if __name__ == "__main__":
    sys.exit(main())

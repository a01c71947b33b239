"""Lists one bucket of the emulator by several programs, each a process of its own, and prints a table of them.

Run through scripts/bench-list, which builds and installs what this needs. Each cell is the median of the runs. Times are
of the listing alone, without the start of the process; CPU and memory are of the whole process and its children.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from emulated import BUCKET, Emulator, tail

# As in the table that Dataflux publishes: 10k, 578k, 2.0M and 17.9M objects.
SIZES = [10_013, 578_411, 2_000_000, 17_944_239]


def dataflux(workers: int) -> dict:
    """Runs the fast list of Python Dataflux in this process and returns what it took."""
    import dataflux_core.fast_list

    started = time.perf_counter()
    listed = dataflux_core.fast_list.ListingController(workers, "project", BUCKET, sort_results=True).run()
    return {"objects": len(listed), "seconds": time.perf_counter() - started}


def measure(emulator: Emulator, command: list) -> dict:
    environment = os.environ | {"STORAGE_EMULATOR_HOST": emulator.endpoint, "RUST_BACKTRACE": "0"}
    before = emulator.cpu()
    # Files take any amount, where of two pipes one would fill up while the other is read.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
        # Unlike `communicate` this tells what it took.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)}: {tail(errors)}")
        out.seek(0)
        lines = out.read().splitlines()
    if not lines:
        sys.exit(f"{' '.join(command)} printed nothing")
    answer = json.loads(lines[-1])
    return {
        "objects": answer["objects"],
        "calls": answer.get("list_calls"),
        "seconds": answer["seconds"],
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "server": emulator.cpu() - before,
    }


def contestants(program: str, other: str | None, size: int, concurrency: int) -> list:
    options = ["ls", f"gs://{BUCKET}", "--summary", "--json", "--concurrency"]
    ls = [program, *options]
    this = [sys.executable, __file__, "--dataflux"]
    rows = [("this crate", [*ls, str(concurrency)], True)]
    if other:
        rows.append(("other build", [other, *options, str(concurrency)], True))
    if size <= 2_000_000:
        rows += [
            ("this crate, one call at a time", [*ls, "1"], size <= 100_000),
            ("Dataflux, 8 workers", [*this, "8"], True),
            ("Dataflux, 48 workers", [*this, "48"], True),
        ]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", help="the dataflux program")
    parser.add_argument("--other", help="a dataflux program of another commit, to compare with")
    parser.add_argument("--profile", default="gcs", help="profile of the emulator")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of objects")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, of which the median is printed")
    parser.add_argument("--concurrency", type=int, default=256, help="calls at once of this crate")
    parser.add_argument("--dataflux", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.dataflux:
        print(json.dumps(dataflux(args.dataflux)))
        return
    print("| objects | lister | runs | seconds | ratio | calls | CPU s | server's CPU s | memory MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        ours = None
        for name, command, repeat in contestants(args.program, args.other, size, args.concurrency):
            # One call after another takes minutes where there are many, and varies little: once is enough.
            runs = args.runs if repeat else 1
            virtual = f"{BUCKET}:n={size},pattern=sequence,size=4096"
            with Emulator(args.program, args.profile, virtual) as emulator:
                found = [measure(emulator, command) for _ in range(runs)]
            wrong = [one["objects"] for one in found if one["objects"] != size]
            if wrong:
                sys.exit(f"{name} found {wrong[0]} objects of {size}")
            middle = {key: statistics.median(one[key] or 0 for one in found) for key in found[0]}
            ours = ours or middle["seconds"]
            calls = f"{middle['calls']:,.0f}" if middle["calls"] else ""
            print(
                f"| {size:,} | {name} | {runs} | {middle['seconds']:.2f} | {middle['seconds'] / ours:.2f} | {calls} "
                f"| {middle['cpu']:.2f} | {middle['server']:.2f} | {middle['memory']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

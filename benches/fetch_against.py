"""Reads objects of the emulator by several programs, each a process of its own, and prints a table of them.

Run through scripts/bench-fetch, which builds and installs what this needs. For each profile and size it first looks for
the setting at which each of the others reads most objects a second, then runs all of them in turn, --runs times, each
with as many objects as take it about --seconds, and prints medians. Every run must bring all objects with all bytes.
With --grid it holds strategy auto against direct and compose instead (fetch_grid.py).

Seconds are of the reading alone: without listing, the start of the process, or Python's imports. CPU is of the reading
where others are measured, and of the whole process, listing included, where this crate is. Memory is the peak of the
process; Dataflux and gcsfs return all objects at once and so hold them all.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

import fetch_grid
from emulated import BUCKET, Emulator, Log, ours, tail

SIZES = {"4KiB": 4 << 10, "100KiB": 100 << 10, "3MiB": 3 << 20}
PROFILES = ["fast", "gcs"]
# What one run may hold in memory: the peers that return all objects at once hold them all.
MOST_BYTES = 2 << 30
# They hold one object a read at once.
STREAMING = ["obstore"]
# Dollars of a call of class A and of class B, and of a GiB that soft delete keeps for seven days: Standard in one region.
CLASS_A, CLASS_B, DELETED = 5e-6, 4e-7, 0.02 * 7 / 30
# A run that takes longer is stuck, or so slow that its setting is no candidate.
PATIENCE = 100

CONCURRENCY = [32, 64, 128, 256, 384, 512, 1024]
# Dataflux has one thread unless told, and its publications go up to 48 processes. It takes hundreds, too: they get a row
# of their own.
THREADS = [8, 16, 32, 48, 64]
MORE_THREADS = [128, 256, 512]
PROCESSES = [2, 4, 8, 16, 32, 48]


# Crates that a Rust program would read a bucket with, and what benches/peers calls them.
CRATES = {"object_store": "object_store", "google-cloud-storage": "google", "opendal": "opendal"}


class Reader:
    """One row of the table. `settings` are tried from the first on, until two in a row are worse than the best."""

    def __init__(self, name: str, settings: list, unit: str = "", first: int = 64, **task):
        self.name, self.settings, self.unit, self.first, self.task = name, settings, unit, first, task
        # This crate begins with nothing known of the bucket, and a compose takes a second: long epochs don't notice.
        self.longer = 3 if "strategy" in task else 1

    def objects(self, size: int, setting: int, wanted: float) -> int:
        """About as many objects as wanted, within what memory holds."""
        # Dataflux gives each thread or process an equal part, and composes 32 objects of it.
        whole = 32 * max(1, setting) if self.task.get("compose") else 1
        peer = self.task.get("peer")
        most = 1 << 20 if peer is None or peer in STREAMING else MOST_BYTES // size
        return max(64, min(most, math.ceil(wanted / whole) * whole))

    def command(self, args, endpoint: str, size: int, objects: int, setting: int) -> list:
        if "strategy" in self.task:
            return ours(self.task.get("program", args.program), self.task["strategy"])
        if "crate" in self.task:
            return [args.peer, self.task["crate"], endpoint, BUCKET, str(setting), "2"]
        if "peer" not in self.task:
            return [args.bare, endpoint, BUCKET, str(setting), "2"]
        task = self.task | {"endpoint": endpoint, "bucket": BUCKET, "size": size, "objects": objects}
        script = os.path.join(os.path.dirname(__file__), "fetch_peers.py")
        return [sys.executable, script, json.dumps(task | {"concurrency": setting})]


def readers(args) -> list:
    rows = [Reader(f"this crate, {strategy}", [0], first=4096, strategy=strategy) for strategy in fetch_grid.STRATEGIES]
    if args.other:
        for strategy in fetch_grid.STRATEGIES:
            rows.append(Reader(f"other build, {strategy}", [0], first=4096, program=args.other, strategy=strategy))
    rows.append(Reader("bare reqwest loop", CONCURRENCY, "at once", first=1024))
    for name, crate in CRATES.items():
        rows.append(Reader(name, CONCURRENCY, "at once", first=1024, crate=crate))
    rows.append(Reader("obstore", CONCURRENCY, "at once", first=512, peer="obstore"))
    rows.append(Reader("gcsfs", CONCURRENCY, "at once", first=512, peer="gcsfs"))
    for compose in (True, False):
        kind = "composing" if compose else "not composing"
        same = {"peer": "dataflux", "compose": compose}
        rows += [
            Reader(f"Dataflux plain, {kind}", [0], **same, way="plain"),
            Reader(f"Dataflux threaded, {kind}", THREADS, "threads", first=512, **same, way="threaded"),
            Reader(f"Dataflux threaded far, {kind}", MORE_THREADS, "threads", first=512, **same, way="threaded"),
            Reader(f"Dataflux parallel, {kind}", PROCESSES, "processes", first=512, **same, way="parallel"),
        ]
    return rows


def measure(args, reader: Reader, profile: str, size: int, objects: int, setting: int) -> dict | None:
    """One run against an emulator of its own; None where it failed."""
    virtual = f"{BUCKET}:n={objects},pattern=sequence,size={size}"
    with Emulator(args.program, profile, virtual) as emulator:
        environment = os.environ | {"STORAGE_EMULATOR_HOST": emulator.endpoint, "RUST_BACKTRACE": "0"}
        command = reader.command(args, emulator.endpoint, size, objects, setting)
        # Files take any amount, where of two pipes one would fill up while the other is read.
        with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            names.write("".join(f"{i:08}\n" for i in range(objects)).encode())
            names.seek(0)
            try:
                subprocess.run(
                    command, env=environment, stdin=names, stdout=out, stderr=errors, timeout=PATIENCE, check=True
                )
            except OSError as error:
                sys.exit(f"{command[0]} can't be started: {error}; scripts/bench-fetch builds and installs it")
            except subprocess.SubprocessError as error:
                why = tail(errors).splitlines()[-1] if isinstance(error, subprocess.CalledProcessError) else "too slow"
                print(f"{reader.name}, {setting} {reader.unit}: {why[:200]}", file=sys.stderr)
                return None
            out.seek(0)
            answer = json.loads(out.read().splitlines()[-1])
        server, stats = emulator.cpu(), emulator.stats()
    found = (answer.get("objects", answer.get("samples")), answer["bytes"])
    if found != (objects, objects * size):
        print(f"{reader.name}: {found} objects and bytes of {(objects, objects * size)}", file=sys.stderr)
        return None
    if answer.get("verified", objects) != objects or answer.get("leftover_temporaries"):
        sys.exit(f"{reader.name}: {answer}")
    # Of all readers the same: listings are left out, since only this crate lists here.
    cost = (stats["compose"] + stats["insert"] + stats["patch"]) * CLASS_A
    cost += (stats["get_media"] + stats["get_metadata"]) * CLASS_B
    cost += stats["composed_bytes"] / 2**30 * DELETED
    return {
        "rate": objects / answer["seconds"],
        "cpu": answer["cpu_seconds"] / objects * 1e6,
        "server": server / objects * 1e6,
        "memory": (answer["peak_rss_bytes"] or 0) / 2**20,
        "refused": sum(count for status, count in stats["errors"].items() if status in ("429", "503")) / objects,
        "dollars": cost / objects * 1e6,
    }


def probe(args, reader: Reader, profile: str, size: int, setting: int) -> float:
    """Objects a second, measured over a second or more; 0 where it fails."""
    objects = reader.objects(size, setting, max(reader.first, 4 * setting))
    enough = args.probe_seconds * reader.longer
    while True:
        found = measure(args, reader, profile, size, objects, setting)
        if found is None or objects / found["rate"] >= enough:
            return found["rate"] if found else 0.0
        more = reader.objects(size, setting, min(8 * objects, 1.2 * enough * found["rate"]))
        if more <= objects:
            return found["rate"]
        objects = more


def best(args, log: Log, reader: Reader, profile: str, size: int) -> dict | None:
    """The best setting, and its objects a second."""
    key = {"what": "setting", "profile": profile, "size": size, "reader": reader.name}
    if (known := log.find(key)) is not None:
        return known if known["rate"] else None
    rates: dict = {}
    for setting in reader.settings:
        rates[setting] = probe(args, reader, profile, size, setting)
        if len(rates) > 2 and max(list(rates.values())[-2:]) < 0.97 * max(rates.values()):
            break
    setting = max(rates, key=rates.get)
    said = ", ".join(f"{setting}: {rate:,.0f}/s" for setting, rate in rates.items())
    print(f"{profile} {size} {reader.name} {said}", file=sys.stderr, flush=True)
    log.put(key, {"setting": setting, "rate": rates[setting], "all": rates})
    return {"setting": setting, "rate": rates[setting]} if rates[setting] else None


def compare(args, log: Log, profile: str, name: str) -> dict:
    """Measures one profile and size, prints its rows, and returns medians by reader."""
    size = SIZES[name]
    plan = []
    for reader in readers(args):
        if args.only and not any(part in reader.name for part in args.only):
            continue
        if known := best(args, log, reader, profile, size):
            setting, wanted = known["setting"], known["rate"] * args.seconds * reader.longer
            objects = reader.objects(size, setting, wanted)
            # Two builds read as many objects, since longer epochs are faster.
            twins = [count for twin, _, count in plan if twin.task.get("strategy", "") == reader.task.get("strategy")]
            plan.append((reader, setting, twins[0] if twins else objects))
        elif reader.name.startswith(("this crate", "other build")):
            sys.exit(f"{profile}, {name}: {reader.name} failed: see above")
        else:
            print(f"| {profile} | {name} | {reader.name} | failed at every setting |" + " |" * 8, flush=True)
    found: dict = {reader.name: [] for reader, _, _ in plan}
    for run in range(args.runs):
        for reader, setting, objects in plan:
            key = {"what": "run", "profile": profile, "size": size, "reader": reader.name, "run": run}
            known = log.find(key)
            if known is None and (known := measure(args, reader, profile, size, objects, setting)):
                log.put(key, known)
            if known:
                found[reader.name].append(known)
            elif reader.name.startswith("this crate"):
                sys.exit(f"{profile}, {name}: {reader.name} failed in run {run + 1}: see above")
    medians = {
        reader: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for reader, runs in found.items()
        if runs
    }
    own = [median["rate"] for reader, median in medians.items() if reader.startswith("this crate")]
    for reader, setting, objects in plan:
        if not (median := medians.get(reader.name)):
            print(f"| {profile} | {name} | {reader.name} | all {args.runs} runs failed |" + " |" * 8, flush=True)
            continue
        rates = [run["rate"] for run in found[reader.name]]
        failed = f", {args.runs - len(rates)} runs failed" if len(rates) < args.runs else ""
        times = f"{max(own) / median['rate']:.2f}" if own else ""
        setting = f"{setting} {reader.unit}" if reader.unit else ""
        print(
            f"| {profile} | {name} | {reader.name} | {setting} | {len(rates)} x {objects:,} | {median['rate']:,.0f} "
            f"({min(rates):,.0f} to {max(rates):,.0f}){failed} | {times} | {median['cpu']:,.0f} | {median['server']:,.0f} "
            f"| {median['memory']:,.0f} | {median['refused']:.1%} | {median['dollars']:.3f} |",
            flush=True,
        )
    return medians


def check(found: dict) -> list:
    """What was promised, of what was measured: one line each."""
    lines = []

    def line(text: str, value: float, wanted: float, at_most: bool = False):
        good = value <= wanted if at_most else value >= wanted
        bound = "at most" if at_most else "at least"
        lines.append(f"{'ok    ' if good else 'FAILED'} {text}: {value:,.2f}, {bound} {wanted:,.2f} wanted")

    def rate(cell: dict, start: str, but: str = "\n") -> float:
        rates = (median["rate"] for name, median in cell.items() if name.startswith(start) and but not in name)
        return max(rates, default=0.0)

    if small := found.get(("gcs", "4KiB")):
        for strategy, share, ceiling in (("direct", 0.85, 5_000), ("compose", 0.7, 16_000)):
            if own := rate(small, f"this crate, {strategy}"):
                line(f"gcs, 4 KiB, {strategy}, of {ceiling:,}/s", own / ceiling, share)
    for name in ("4KiB", "100KiB"):
        cell = found.get(("gcs", name), {})
        peers = (
            ("Dataflux at its best up to 64 threads", rate(cell, "Dataflux", " far,"), 8),
            ("Dataflux at its best", rate(cell, "Dataflux"), 8),
            ("obstore at its best", rate(cell, "obstore"), 1.5),
            ("gcsfs at its best", rate(cell, "gcsfs"), 1.5),
        )
        for which, mine in (("the best strategy", rate(cell, "this crate")), ("auto", rate(cell, "this crate, auto"))):
            for peer, other, times in peers:
                if mine and other:
                    line(f"gcs, {name}, {which}, times {peer}", mine / other, times)
    # What this crate's documentation says of the crates that a Rust program has otherwise.
    for name, composed in (("4KiB", 3), ("100KiB", 1.4)):
        cell = found.get(("gcs", name), {})
        for crate in CRATES:
            if other := rate(cell, crate):
                if mine := rate(cell, "this crate"):
                    line(f"gcs, {name}, the best strategy, times {crate}", mine / other, composed)
                if mine := rate(cell, "this crate, direct"):
                    line(f"gcs, {name}, direct, times {crate}", mine / other, 0.9)
    for (profile, name), cell in found.items():
        for strategy in fetch_grid.STRATEGIES:
            if (own := cell.get(f"this crate, {strategy}")) and (other := cell.get(f"other build, {strategy}")):
                cell_name = f"{profile}, {name}, {strategy}"
                line(f"{cell_name}, rate, times the other build's", own["rate"] / other["rate"], 0.95)
                cpu = own["cpu"] / other["cpu"]
                line(f"{cell_name}, CPU an object, times the other build's", cpu, 1.05, at_most=True)
    cell = found.get(("fast", "100KiB"), {})
    if (own := cell.get("this crate, direct")) and (bare := cell.get("bare reqwest loop")):
        line("fast, 100 KiB, direct, CPU an object, times the bare loop's", own["cpu"] / bare["cpu"], 1.6, at_most=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="the dataflux program")
    parser.add_argument("--other", help="a dataflux program of another commit, to compare with")
    parser.add_argument("--bare", help="the program of benches/bare_reqwest.rs")
    parser.add_argument("--peer", help="the program of benches/peers")
    parser.add_argument("--profiles", nargs="+", default=PROFILES, help="profiles of the emulator")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes of objects")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="readers whose name has one of these in it")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, of which the median is printed")
    parser.add_argument("--seconds", type=float, default=4, help="about how long a run takes; this crate's three times")
    parser.add_argument("--probe-seconds", type=float, default=1, help="the same, while looking for settings")
    parser.add_argument("--log", default="target/bench-fetch.jsonl", help="every figure, one JSON object a line")
    parser.add_argument("--resume", action="store_true", help="keep what is in the log, and measure what is not")
    fetch_grid.options(parser)
    args = parser.parse_args()
    log = Log(args.log, args.resume)
    if args.grid:
        sys.exit(fetch_grid.grid(args, log))
    count = sum(not args.only or any(part in reader.name for part in args.only) for reader in readers(args))
    cells = len(args.profiles) * len(args.sizes)
    # Half as long again for starts, and some six settings of a probe each.
    minutes = cells * count * (1.5 * args.runs * args.seconds + 6 * 3 * args.probe_seconds) / 60
    print(f"{cells} cells of {count} readers: some {minutes:.0f} minutes; figures in {args.log}", file=sys.stderr)
    started = time.monotonic()
    print(
        "| profile | objects of | reader | its best setting | objects | objects/s | times slower | CPU us an object "
        "| server's | memory MiB | refused calls an object | $ a million |"
    )
    print("|---" * 12 + "|", flush=True)
    found = {(profile, name): compare(args, log, profile, name) for profile in args.profiles for name in args.sizes}
    print(f"{(time.monotonic() - started) / 60:.0f} minutes", file=sys.stderr)
    print()
    print(*check(found), sep="\n")


if __name__ == "__main__":
    main()

"""Holds strategy auto against direct and compose, over sizes, latencies and limits. Started by fetch_against.py --grid.

A cell is a size of objects, a factor on the latencies of profile `gcs`, and its limits on or off. In each, a process
for each strategy in turn, --runs times; a process runs --epochs over one bucket, as a series. What auto finds out in its
first epoch it knows in the later ones: told apart are the first, and all others together, from the end of the first to
the end of the last. One of them by itself says little: an epoch is read ahead during the one before.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from emulated import BUCKET, Emulator, Log, ours

STRATEGIES = ["direct", "compose", "auto"]
SIZES = {"1KiB": 1 << 10, "32KiB": 32 << 10, "100KiB": 100 << 10, "1MiB": 1 << 20, "16MiB": 16 << 20}
LATENCIES = {"x0.2": 0.2, "x1": 1.0, "x3": 3.0}
LIMITS = ["on", "off"]
# Of profile `gcs`, in milliseconds. What a stream brings a second, 60 MB, is no latency and stays.
DELAYS = {"media_ms": 80, "compose_ms": 800, "delete_ms": 80, "list_ms": 50, "metadata_ms": 40}
# Bytes of a batch at most, so that several fit the memory budget of 1 GiB, and samples.
BATCH = (128 << 20, 256)
# Slower than the better by no more than this share.
TOLERANCE = 0.10
# A process that takes longer is stuck.
PATIENCE = 900


def options(parser):
    parser.add_argument("--grid", action="store_true", help="strategy auto against the others, instead")
    parser.add_argument("--cells", metavar="TEXT", help="of the grid only these, such as 1KiB,32KiB,x1,on")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each run, two or more")


def expected(size: int, limited: bool) -> dict:
    """Objects a second by strategy, roughly, as two slow cores do it: only the length of an epoch depends on it."""
    moved = size / 1.2e9
    group = max(1, min(32, 100_000_000 // size))
    direct, composed = 1 / (50e-6 + moved), 1 / (8e-6 + moved)
    if limited:
        # A compose and a delete are two of a thousand writes a second.
        direct, composed = min(direct, 5_000), min(composed, 500 * group)
    return {"direct": direct, "compose": composed, "auto": max(direct, composed)}


def plan(args, size: int, factor: float, limited: bool) -> tuple:
    """Objects of an epoch, and the seconds that a run of each strategy takes."""
    rates = expected(size, limited)
    objects = max(64, round(args.seconds * max(rates.values())))
    fill = (DELAYS["compose_ms"] + DELAYS["media_ms"] + DELAYS["delete_ms"]) * factor / 1_000
    return objects, sum(args.epochs * (objects / rate + fill) + 0.5 for rate in rates.values())


def run(args, profile: str, size: int, objects: int, strategy: str) -> dict:
    with Emulator(args.program, profile, f"{BUCKET}:n={objects},pattern=sequence,size={size}") as emulator:
        batch = max(1, min(BATCH[1], BATCH[0] // size))
        command = ours(args.program, strategy, "--epochs", str(args.epochs), "--batch-size", str(batch))
        environment = os.environ | {"STORAGE_EMULATOR_HOST": emulator.endpoint, "RUST_BACKTRACE": "0"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            sys.exit(f"{' '.join(command)} on {profile} was not done after {PATIENCE} s")
    if done.returncode:
        sys.exit(f"{' '.join(command)} on {profile}: {done.stderr.decode(errors='replace')[-2_000:]}")
    answer = json.loads(done.stdout)
    wanted = objects * args.epochs
    if (answer["samples"], answer["verified"], answer["bytes"]) != (wanted, wanted, wanted * size):
        sys.exit(f"{' '.join(command)} on {profile} brought not all of {wanted} objects: {answer}")
    if answer["leftover_temporaries"]:
        sys.exit(f"{' '.join(command)} on {profile} left temporary objects: {answer}")
    return {
        "epoch_seconds": answer["epoch_seconds"],
        "cpu": answer["cpu_seconds"],
        "ops": answer["ops"],
        "retries": answer["retries"],
    }


def rates(runs: list, objects: int) -> tuple:
    """Objects a second in first epochs and in all others, medians of the runs."""
    first = statistics.median(run["epoch_seconds"][0] for run in runs)
    later = statistics.median(statistics.mean(run["epoch_seconds"][1:]) for run in runs)
    return objects / first, objects / later


def cells(text: str | None) -> list:
    wanted = text.split(",") if text else []
    axes = [list(SIZES), list(LATENCIES), LIMITS]
    unknown = [part for part in wanted if not any(part in axis for axis in axes)]
    if unknown:
        sys.exit(f"no cells called {', '.join(unknown)}; there are {', '.join(sum(axes, []))}")
    # Of an axis that isn't named, all.
    chosen = [[part for part in axis if part in wanted] or axis for axis in axes]
    # What a bucket most likely is comes first, should the run be ended early.
    latencies = sorted(chosen[1], key=lambda latency: abs(LATENCIES[latency] - 1))
    return [(size, latency, limits) for limits in chosen[2] for latency in latencies for size in chosen[0]]


def grid(args, log: Log) -> int:
    """Prints the table; 1 where auto fell behind."""
    if args.epochs < 2:
        sys.exit("--epochs must be 2 or more: the first is told apart from the later ones")
    chosen = cells(args.cells)
    todo = [plan(args, SIZES[size], LATENCIES[latency], limits == "on") for size, latency, limits in chosen]
    total = args.runs * sum(seconds for _, seconds in todo)
    note = f"{len(chosen)} cells, {args.runs} runs of {len(STRATEGIES)} strategies: some {total / 60:.0f} minutes"
    print(f"{note}; figures in {args.log}", file=sys.stderr, flush=True)
    print(
        "| objects of | latency | limits | objects | direct/s | compose/s | auto/s | auto to the better | first epochs: "
        "direct/s | compose/s | auto/s | auto to the better | |"
    )
    print("|---" * 13 + "|", flush=True)
    started, spent, behind = time.monotonic(), 0.0, 0
    for (size, latency, limits), (objects, seconds) in zip(chosen, todo, strict=True):
        delays = ",".join(f"{name}={millis * LATENCIES[latency]:g}" for name, millis in DELAYS.items())
        profile = f"gcs,{delays},limits={limits}"
        found: dict = {strategy: [] for strategy in STRATEGIES}
        for turn in range(args.runs):
            for strategy in STRATEGIES:
                key = {"what": "cell", "profile": profile, "size": SIZES[size], "objects": objects}
                key |= {"epochs": args.epochs, "strategy": strategy, "run": turn}
                one = log.find(key)
                if one is None:
                    one = run(args, profile, SIZES[size], objects, strategy)
                    log.put(key, one)
                found[strategy].append(one)
        (direct, composed, auto) = (rates(found[strategy], objects) for strategy in STRATEGIES)
        first, later = (auto[which] / max(direct[which], composed[which]) for which in (0, 1))
        enough = 1 - TOLERANCE
        behind += later < enough
        verdict = "FAILED" if later < enough else "ok" if first >= enough else "ok but for the first"
        print(
            f"| {size} | {latency} | {limits} | {objects:,} | {direct[1]:,.0f} | {composed[1]:,.0f} | {auto[1]:,.0f} "
            f"| {later:.2f} | {direct[0]:,.0f} | {composed[0]:,.0f} | {auto[0]:,.0f} | {first:.2f} | {verdict} |",
            flush=True,
        )
        spent += args.runs * seconds
        passed = time.monotonic() - started
        left = (total - spent) * passed / spent
        print(f"{passed / 60:.0f} minutes, some {left / 60:.0f} to go", file=sys.stderr, flush=True)
    print(f"\nauto within {TOLERANCE:.0%} of the better: {len(chosen) - behind} of {len(chosen)} cells, later epochs")
    return 1 if behind else 0

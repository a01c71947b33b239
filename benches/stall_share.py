"""What share of its time a training loop waits that takes less than this crate can deliver. Run by scripts/bench-stalls.

For each size of objects and each strategy two processes of `dataflux bench`, each against an emulator of its own: one takes
batches as fast as they come, and the rate of its last epochs is the *data rate*; one sleeps on each batch, as a training
step would take, so long that it takes --share of that rate. Told is the share of the time from the first batch to the last
that it waited, with the start of the run, where nothing is known of the bucket and nothing is ahead, as a part of that.
"""

import argparse
import json
import os
import subprocess
import sys

from emulated import BUCKET, Emulator, ours

SIZES = {"4KiB": 4 << 10, "100KiB": 100 << 10, "3MiB": 3 << 20}
# About as many objects a second as two cores do on profile gcs; only the lengths of epochs depend on it.
EXPECTED = {"4KiB": 12_000, "100KiB": 4_000, "3MiB": 250}
BATCHES = {"4KiB": 256, "100KiB": 256, "3MiB": 16}
# A process that takes longer than this beyond what it is to take is stuck.
PATIENCE = 300
# Epochs of the first run, and how many of them at the end tell the rate.
EPOCHS, JUDGED = 6, 3


def bench(args, size: str, strategy: str, objects: int, *more: str) -> dict:
    command = ours(args.program, strategy, "--batch-size", str(BATCHES[size]), *more)
    with Emulator(args.program, args.profile, f"{BUCKET}:n={objects},pattern=sequence,size={SIZES[size]}") as emulator:
        environment = os.environ | {"STORAGE_EMULATOR_HOST": emulator.endpoint, "RUST_BACKTRACE": "0"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=args.seconds + PATIENCE)
        except subprocess.TimeoutExpired as late:
            sys.exit(f"{' '.join(command)} on {args.profile} was not done after {late.timeout:.0f} s")
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-2_000:]}")
    found = json.loads(done.stdout)
    if found["verified"] != found["samples"] or found["leftover_temporaries"]:
        sys.exit(f"{' '.join(command)}: not all samples were proved, or something was left: {found}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="dataflux, as built")
    parser.add_argument("--profile", default="gcs")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--strategies", nargs="+", default=["direct", "auto"])
    parser.add_argument("--share", type=float, default=0.8, help="of the data rate that the loop takes")
    parser.add_argument("--seconds", type=float, default=100, help="that the loop runs")
    args = parser.parse_args()
    print("| size | strategy | data rate, samples/s | step ms a batch | taken, samples/s | first batch s | wait_fraction | waited for, s |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        for strategy in args.strategies:
            objects = EXPECTED[size] * 2
            fast = bench(args, size, strategy, objects, "--epochs", str(EPOCHS))
            rate = objects * JUDGED / sum(fast["epoch_seconds"][-JUDGED:])
            step = round(1_000 * BATCHES[size] / (args.share * rate))
            wanted = round(1_000 * BATCHES[size] / step * args.seconds)
            epochs = ("--epochs", str(-(-wanted // objects)), "--limit", str(wanted), "--step-ms", str(step))
            paced = bench(args, size, strategy, objects, *epochs)
            waited = sorted(((time, stage) for stage, time in paced["waited_for"].items() if time >= 0.001), reverse=True)
            cells = [
                size,
                strategy,
                f"{rate:,.0f}",
                step,
                f"{paced['samples_per_second']:,.0f}",
                f"{paced['first_batch_seconds']:.2f}",
                f"{paced['wait_fraction']:.4f}",
                ", ".join(f"{stage} {time:.3f}" for time, stage in waited),
            ]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()

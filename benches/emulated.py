"""What the benchmarks share: an emulator in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request


def tail(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")[-2000:].strip() or "nothing on standard error"


class Emulator:
    """`virtual` is one bucket of virtual objects, as the emulator's option has it."""

    def __init__(self, program: str, profile: str, virtual: str):
        command = [program, "emulate", "--json", "--profile", profile, "--virtual", virtual]
        # A file, since nobody would empty a pipe while it runs.
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors)
        except OSError as error:
            sys.exit(f"{program} can't be started: {error}; scripts/bench-* build it, --program names another")
        line = self.process.stdout.readline()
        try:
            self.endpoint = json.loads(line)["endpoint"]
        except (ValueError, KeyError):
            self.process.kill()
            self.process.wait()
            sys.exit(f"{' '.join(command)} said {line.decode()!r} instead of its endpoint: {tail(self.errors)}")

    def cpu(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stats(self) -> dict:
        with urllib.request.urlopen(f"{self.endpoint}/_emulator/stats") as answer:
            return json.load(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

"""What the benchmarks share: an emulator in a process of its own, and a log of figures."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request

BUCKET = "bench"


def ours(program: str, strategy: str, *more: str) -> list:
    """This crate's epochs over the bucket."""
    return [program, "bench", f"gs://{BUCKET}", "--json", "--strategy", strategy, *more]


class Log:
    """Figures by what they are of, each a line of JSON in a file, so that a run which was ended goes on where it was."""

    def __init__(self, path: str, resume: bool):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.file = open(path, "a+" if resume else "w+")
        self.file.seek(0)
        self.known = {json.dumps(line["of"]): line["found"] for line in map(json.loads, self.file)}

    def find(self, key: dict) -> dict | None:
        return self.known.get(json.dumps(key))

    def put(self, key: dict, found: dict):
        self.known[json.dumps(key)] = found
        self.file.write(json.dumps({"of": key, "found": found}) + "\n")
        self.file.flush()


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

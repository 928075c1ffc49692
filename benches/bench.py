"""The benches. `make bench` runs all of them, `make bench-drain` one, `make bench QUICK=1` each in seconds.

Everything is on 127.0.0.1, in a stack of its own. The contestants of a bench run in turn, several times, and are compared
round by round, since machines differ and are shared.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "localstack" / "stack")]

import beside  # noqa: E402
import capture  # noqa: E402
import cold  # noqa: E402
import drain  # noqa: E402
import end_to_end  # noqa: E402
import generations  # noqa: E402
import goals  # noqa: E402
import held  # noqa: E402
import index  # noqa: E402
import ingest  # noqa: E402
import live  # noqa: E402
import replay  # noqa: E402
import targets  # noqa: E402
import validate  # noqa: E402
from peers import NotRun  # noqa: E402
from plot import bars, figure  # noqa: E402
from world import World  # noqa: E402

BENCHES = {"cold": cold.benches, "capture": capture.benches, "drain": drain.benches, "held": held.benches, "index": index.benches, "ingest": ingest.benches, "validate": validate.benches, "replay": replay.benches, "generations": generations.benches, "end-to-end": end_to_end.benches, "targets": targets.benches, "beside": beside.benches, "live": live.benches}
RESULTS = HERE / "results"


class Bench:
    """Contestants that do the same, in turn. The first measure is the one that is compared."""

    def __init__(self, name: str, title: str, contestants: dict[str, Callable[[], dict[str, float]]], rounds: int):
        self.name, self.title, self.contestants, self.rounds = name, title, contestants, rounds
        self.runs: dict[str, list[dict[str, float]]] = {contestant: [] for contestant in contestants}
        self.not_run: dict[str, str] = {}
        self.stolen = 0.0

    def run(self) -> None:
        before = cpu_ticks()
        for number in range(self.rounds):
            for name, contestant in self.contestants.items():
                if name in self.not_run:
                    continue
                began = time.monotonic()
                try:
                    measured = contestant()
                except NotRun as why:
                    self.not_run[name] = str(why)
                    say(f"{self.name}  {name} is left out: {why}")
                    continue
                self.runs[name].append(measured)
                told = ", ".join(f"{measure} {figure(value)}" for measure, value in measured.items())
                say(f"{self.name} {number + 1}/{self.rounds}  {name}: {told}  ({time.monotonic() - began:.0f} s)")
        ticks = [now - then for then, now in zip(before, cpu_ticks(), strict=True)]
        self.stolen = ticks[7] / sum(ticks)

    def stored(self, facts: dict[str, object]) -> dict:
        """What is kept of it."""
        return {"title": self.title, "facts": facts | {"stolen CPU": f"{self.stolen:.0%}"}, "runs": self.runs, "not_run": self.not_run}


def cpu_ticks() -> list[int]:
    """Of all cores, by what they were used for; the eighth is what the hypervisor gave to other machines."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:9]]


class Result:
    """What came of a bench, as it is stored."""

    def __init__(self, stored: dict):
        self.title, self.runs, self.not_run, self.facts = stored["title"], stored["runs"], stored["not_run"], stored["facts"]

    def medians(self) -> dict[str, dict[str, float]]:
        return {name: {measure: statistics.median(run[measure] for run in runs) for measure in runs[0]} for name, runs in self.runs.items() if runs}

    def rounds(self) -> list[goals.Round]:
        """What was measured side by side."""
        length = max((len(runs) for runs in self.runs.values()), default=0)
        return [{name: runs[number] for name, runs in self.runs.items() if number < len(runs)} for number in range(length)]

    def first(self) -> dict[str, tuple[float, float, float]]:
        """Of each contestant's first measure the median, the least and the most."""
        values = {name: [next(iter(run.values())) for run in runs] for name, runs in self.runs.items() if runs}
        return {name: (statistics.median(of), min(of), max(of)) for name, of in values.items()}

    def table(self) -> str:
        """The medians; the first measure with how far its runs are apart, and its ratio to the first contestant's of a round."""
        medians, first = self.medians(), self.first()
        measures = list(dict.fromkeys(measure for measured in medians.values() for measure in measured))
        base = next(iter(first))
        lines = ["| | " + " | ".join([measures[0], "spread", "ratio", *measures[1:]]) + " |", "|---|" + "---:|" * (len(measures) + 2)]
        for name, measured in medians.items():
            median, least, most = first[name]
            ratio = statistics.median(one[name][measures[0]] / one[base][measures[0]] for one in self.rounds() if name in one)
            rest = [figure(measured[measure]) if measure in measured else "" for measure in measures[1:]]
            lines.append(f"| {name} | " + " | ".join([figure(median), f"{(most - least) / median:.0%}", f"{ratio:.2f}", *rest]) + " |")
        lines += [f"\n{name} could not be run: {why}." for name, why in self.not_run.items()]
        return "\n".join(lines) + "\n"

    def plot(self) -> str:
        measure = next(iter(next(iter(self.medians().values()))))
        return bars(self.title, measure, self.first(), own="sluice")


def write(done: list[Bench], facts: dict[str, object]) -> None:
    """Adds to what earlier runs have left: each bench has its own facts."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "results.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    stored |= {bench.name: bench.stored(facts) for bench in done}
    file.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    results = {name: Result(one) for name, one in stored.items()}
    parts = ["# Results\n", "Written by `make bench`; [what is measured, and how](../README.md).\n"]
    parts += [goals.table({name: result.rounds() for name, result in results.items()})]
    for name, result in results.items():
        picture = f"{name.replace(' ', '-')}.svg"
        (RESULTS / picture).write_text(result.plot())
        told = ", ".join(f"{fact} {value}" for fact, value in result.facts.items())
        parts += [f"## {result.title}\n", f"![]({picture})\n", result.table(), f"{told}.\n"]
    (RESULTS / "results.md").write_text("\n".join(parts))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    is_quick = "QUICK" in arguments
    world = World(arguments.get("STACK", "bench"), Path(arguments["BINARIES"]), Path(arguments["SLUICE"]), Path(arguments["BENCH"]))
    done = []
    try:
        facts = world.facts()
        for name in [arguments["NAME"]] if "NAME" in arguments else BENCHES:
            for make in BENCHES[name](world, is_quick):
                bench = Bench(*make)
                bench.run()
                done.append(bench)
                result = Result(bench.stored(facts))
                print(f"### {result.title}\n\n{result.table()}", flush=True)
                if not is_quick:
                    write(done, facts)
    finally:
        world.close()
    if not is_quick:
        print(goals.table({bench.name: Result(bench.stored(facts)).rounds() for bench in done}))


if __name__ == "__main__":
    main()

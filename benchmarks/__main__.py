"""evodyn beside its peers: every target with its verdict, tables, and a figure of work against precision.

Run it with ``make bench``, which installs the peers, on a machine that does nothing else. Each method is run
from loose to tight tolerances; the cheapest setting that reaches an error of 1e-6 in every ln p is timed, all
methods in turns. Tables come as each work is done.
"""

from __future__ import annotations

import argparse
import importlib
import json
import traceback
from pathlib import Path

from benchmarks.contest import Options
from benchmarks.machine import busy, described
from benchmarks.rows import CLOCKS, Clock, Outcome, figure, table, verdict_table, write

WORKS = (
    "integration",
    "functions",
    "sizes",
    "long",
    "ensembles",
    "first_calls",
    "maps",
    "equilibria",
    "selection",
    "removal",
)


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", default=list(WORKS), help=f"which of: {', '.join(WORKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer methods, sizes and rounds: minutes")
    parser.add_argument("--target", type=float, default=1e-6, help="error of ln p to reach, 1e-6 by default")
    parser.add_argument("--rounds", type=int, help="rounds of timing: 9 by default, 5 if quick")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        help="what times are compared by: the median by the clock, or, by default if the machine has other "
        "work to do, the median of processor time",
    )
    parser.add_argument("--out", type=Path, help="folder of the results, results/benchmarks by default")
    parser.add_argument("--figures", type=Path, help="folder of the figure, figures by default")
    asked = parser.parse_args()
    if unknown := set(asked.works) - set(WORKS):
        parser.error(f"works are {', '.join(WORKS)}; got {', '.join(unknown)}")
    if asked.rounds is not None and asked.rounds < 5:
        parser.error(f"rounds is {asked.rounds}; expected at least 5, for a median")
    return asked


def main() -> None:
    """Measure, print, save and draw."""
    asked = arguments()
    quick = Path("quick") if asked.quick else Path()
    out: Path = asked.out or Path("results") / quick / "benchmarks"
    figures: Path = asked.figures or Path("figures") / quick
    clock: Clock = asked.clock or ("processor" if busy() else "median")
    options = Options(asked.quick, asked.rounds or (5 if asked.quick else 9), asked.target, clock)
    about = described() | {"compared by": clock, "target": f"{options.target:g}", "quick": str(options.quick)}
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    if busy():
        print(
            "The machine has other work to do: its clock means little, and processor time is what compares."
        )
    outcomes: list[Outcome] = []
    for name in asked.works:
        try:
            for outcome in importlib.import_module(f"benchmarks.works.{name}").measured(options):
                outcomes.append(outcome)
                print(table(outcome, clock), flush=True)
                save(out, outcomes, about)  # what there is, should it be interrupted
        except Exception as failure:  # the other works still count
            traceback.print_exc()
            outcomes.append(Outcome(name, notes=[f"failed: {failure}"]))
    save(out, outcomes, about)
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    print(f"\n{verdict_table(verdicts)}")
    for outcome in outcomes:
        if outcome.notes and outcome.notes[0].startswith("failed"):
            print(f"{outcome.work} {outcome.notes[0]}")
    print(f"\nTables: {out}/timings.csv, targets.csv and scans.csv")
    draw = importlib.import_module("benchmarks.draw")
    if path := draw.drawn(out, figures):
        print(f"Figure: {path}.pdf (also .png, and the caption as .txt)")


def save(folder: Path, outcomes: list[Outcome], about: dict[str, str]) -> None:
    """Write what there is so far: rows, targets, and all attempts of every scan."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "timings.csv", [(row, {}) for one in outcomes for row in one.rows])
    verdicts = [each for one in outcomes for each in one.verdicts]
    others = [" ".join(map(figure, each.others)) for each in verdicts]
    judged = [{"others": text, "outcome": each.outcome} for each, text in zip(verdicts, others, strict=True)]
    write(folder / "targets.csv", zip(verdicts, judged, strict=True))
    scans = [(each, {"work": one.work, "method": name}) for one in outcomes for name, each in one.attempts]
    write(folder / "scans.csv", scans)
    (folder / "machine.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

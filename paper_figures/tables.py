"""What studies put into CSV files, as tables in LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import style
from evodyn.core.atomic import replacing


@dataclasses.dataclass(frozen=True)
class Table:
    """Which columns of a CSV file are printed, and how.

    Parameters
    ----------
    caption : str
        What the table says.
    columns : mapping
        Column of the file -> (heading, format), the format empty for text.
    first_of : str, optional
        Keep only the rows that have in this column what the first row has.
    """

    caption: str
    columns: Mapping[str, tuple[str, str]]
    first_of: str = ""


COMPARED = {
    "theory": ("theory", ".6g"),
    "simulation": ("simulation", ".6g"),
    "difference": ("difference", ".1e"),
}
ACCURACIES = {
    "paper_accuracy": ("acc., paper", ".4f"),
    "ours_accuracy": ("acc., here", ".4f"),
    "difference_accuracy": ("difference", "+.4f"),
}

TABLES = {
    "extinction/extinction": Table(
        "Groups extinct at the end, the same at equilibrium, and the times when 10, 50 and 90 % are extinct, "
        "for growing heterogeneity h.",
        {
            "decay": ("λ", "g"),
            "heterogeneity": ("h", "g"),
            "fraction_extinct": ("extinct", ".1%"),
            "interval_low": ("from", ".1%"),
            "interval_high": ("to", ".1%"),
            "fraction_at_equilibrium": ("theory", ".1%"),
            "time_q0.1": ("t (10 %)", ".3g"),
            "time_q0.5": ("t (50 %)", ".3g"),
            "time_q0.9": ("t (90 %)", ".3g"),
        },
    ),
    "fixed_points/fixed_points": Table(
        "Equilibria in theory, and where integration comes to rest: mean fitness, and the largest difference "
        "of a mass relative to the largest mass.",
        {
            "dynamics": ("dynamics", ""),
            "landscape": ("landscape", ""),
            "groups": ("N", ".0f"),
            "survivors": ("alive", ".0f"),
            "theory_mean_fitness": ("theory", ".6g"),
            "simulated_mean_fitness": ("simulation", ".6g"),
            "difference": ("difference", ".1e"),
        },
        first_of="member",
    ),
    "discrete_vs_continuous/discrete_vs_continuous": Table(
        "The maps of Eqs. 12-14 against the flow: error constants, orders and limits of the step.",
        {"part": ("part", ""), "quantity": ("quantity", ""), **COMPARED},
    ),
    "noise/noise": Table(
        "Noise: who dies and when, and what prevents it, with 95 % intervals and p-values of theory.",
        {
            "part": ("part", ""),
            "quantity": ("quantity", ""),
            **COMPARED,
            "interval_low": ("from", ".4g"),
            "interval_high": ("to", ".4g"),
            "p_value": ("p", ".2g"),
        },
    ),
    "extensions/extensions": Table(
        "Redundancy, schedules of mutation, accuracy against cost, and coupled layers.",
        {"part": ("part", ""), "quantity": ("quantity", ""), **COMPARED},
        first_of="member",
    ),
    "mnist_bridge/table1": Table(
        "Table 1 of the paper beside the same experiment here, first seed, read literally and in the reading "
        "that gives its masses (paper).",
        {
            "reading": ("reading", ""),
            "sparsity_percent": ("removed (%)", "g"),
            "dynamics": ("dynamics", ""),
            "paper_epsilon": ("ε, paper", ".4f"),
            "ours_epsilon": ("ε, here", ".4f"),
            "difference_epsilon": ("difference", "+.4f"),
            **ACCURACIES,
        },
        first_of="seed",
    ),
    "mnist_bridge/table2": Table(
        "Table 2 of the paper beside the same experiment here, first seed, read literally and in the reading "
        "that gives its masses (paper).",
        {
            "reading": ("reading", ""),
            "epsilon": ("ε", "g"),
            "dynamics": ("dynamics", ""),
            "paper_sparsity_percent": ("removed, paper (%)", ".1f"),
            "ours_sparsity_percent": ("here (%)", ".1f"),
            "difference_sparsity_percent": ("difference", "+.1f"),
            **ACCURACIES,
        },
        first_of="seed",
    ),
    "paper_readings/cells": Table(
        "Every printed number beside the best single reading, and the reading that comes nearest to it.",
        {
            "table": ("Table", ".0f"),
            "level": ("row", "g"),
            "dynamics": ("dynamics", ""),
            "quantity": ("quantity", ""),
            "printed": ("printed", "g"),
            "best": ("best reading", ".4g"),
            "best_reproduces": ("reproduced", ""),
            "nearest": ("nearest", ".4g"),
            "nearest_reading": ("by", ""),
        },
    ),
    "replay/replay": Table(
        "Recorded signals replayed: largest difference of a log-mass between map and flow, and its bound.",
        {
            "reading": ("signal", ""),
            "dynamics": ("dynamics", ""),
            "step_size": ("step", ".3g"),
            "map_from_flow": ("distance", ".2e"),
            "bound": ("bound", ".2e"),
            "order": ("order", ".3f"),
        },
        first_of="seed",
    ),
}
"""Tables by STUDY/FILE without .csv; make finds them here, one to a line with its key first."""

LATEX = dict(zip("%_&#${}", (rf"\{mark}" for mark in "%_&#${}"), strict=True)) | {
    "\\": r"\textbackslash{}",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    "κ": r"$\kappa$",
    "ε": r"$\varepsilon$",
    "φ": r"$\varphi$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "−": "$-$",
    "∞": r"$\infty$",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
}
"""What LaTeX prints another character for, or none."""


def main() -> None:
    """Write figures/tables/STUDY/FILE.tex and .md for the table named on the command line."""
    parser = argparse.ArgumentParser(description="Turn a study's CSV file into LaTeX and Markdown.")
    parser.add_argument("table", choices=TABLES, help="STUDY/FILE, without .csv")
    parser.add_argument("--quick", action="store_true", help="read results/quick, write to figures/quick")
    given = parser.parse_args()
    results, figures = (
        folder / ("quick" if given.quick else "") for folder in (style.RESULTS, style.FIGURES)
    )
    path = results / f"{given.table}.csv"
    if not path.exists():
        study = given.table.split("/")[0]
        raise SystemExit(f"{os.path.relpath(path)} is missing. The study makes it: make {study}.")
    rows = style.rows_of(path)
    table = TABLES[given.table]
    if table.first_of:
        rows = [row for row in rows if row[table.first_of] == rows[0][table.first_of]]
    if given.quick:
        table = dataclasses.replace(table, caption=f"{style.QUICK} {table.caption}")
    for suffix, content in ((".tex", latex(table, rows)), (".md", markdown(table, rows))):
        with replacing((figures / "tables" / given.table).with_suffix(suffix)) as temporary:
            temporary.write_text(content, encoding="utf-8")
    print(f"Table:  {os.path.relpath(figures / 'tables' / given.table)}.tex (also .md)")


def cells(table: Table, row: Mapping[str, str]) -> list[str]:
    """Return a row as text, numbers in their format; what is missing or not finite is a dash."""
    return [_cell(row[name], form) for name, (_, form) in table.columns.items()]


def _cell(value: str, form: str) -> str:
    if not form:
        return value
    number = float(value or "nan")
    if not math.isfinite(number):
        return "–"
    return format(number, form).replace("%", " %").replace("-", "−")


def latex(table: Table, rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table for LaTeX with booktabs; it compiles with pdfLaTeX too."""
    columns = "".join("r" if form else "l" for _, form in table.columns.values())
    heads = [heading for heading, _ in table.columns.values()]
    lines = [
        " & ".join(map(escaped, line)) + r" \\" for line in (heads, *(cells(table, row) for row in rows))
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(table.caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(LATEX.get(character, character) for character in text)


def markdown(table: Table, rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table for Markdown, numbers to the right."""
    lines = [[heading for heading, _ in table.columns.values()]]
    lines.append(["--:" if form else ":--" for _, form in table.columns.values()])
    lines += [[cell.replace("|", r"\|") for cell in cells(table, row)] for row in rows]
    return f"{table.caption}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()

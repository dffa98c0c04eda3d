"""What studies put into CSV files, as tables in LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import style
from evodyn.atomic import replacing


@dataclasses.dataclass(frozen=True)
class Table:
    """Which columns of a CSV file are printed, and how.

    Parameters
    ----------
    caption : str
        What the table says.
    columns : mapping
        Column of the file -> (heading, format), the format empty for text.
    """

    caption: str
    columns: Mapping[str, tuple[str, str]]


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
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = TABLES[given.table]
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

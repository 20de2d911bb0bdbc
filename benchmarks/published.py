"""Medians and ranges over the seeds of finished comparisons, as rows of a Markdown table.

Run ``recopt compare --spec runs/published-chandra-epoch.yaml -o epoch``, then
``python benchmarks/published.py test_accuracy epoch``.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path


def rows(figure: str, folder: Path) -> Iterator[str]:
    """A row for each competitor of the comparison in ``folder``: its name, median (least to most), and seeds.

    Raises:
        SystemExit: if ``folder`` holds no comparison, or one that did not measure ``figure``.
    """
    found: dict[str, list[float]] = {}
    try:
        with (folder / "runs.csv").open() as file:
            for line in csv.DictReader(file):
                found.setdefault(line["name"], []).append(float(line[figure]))
    except FileNotFoundError:
        raise SystemExit(f"{folder} holds no comparison: give the folder of 'recopt compare -o'.") from None
    except KeyError:
        raise SystemExit(f"{folder} has no column '{figure}': look at the first line of its runs.csv.") from None
    for name, values in found.items():
        middle = statistics.median(values)
        yield f"| {name} | {middle:.4f} ({min(values):.4f} to {max(values):.4f}) | {len(values)} |"


def main(arguments: list[str]) -> None:
    """Print the rows of all folders."""
    if len(arguments) < 2:
        raise SystemExit("Usage: python benchmarks/published.py test_accuracy|test_loss DIR…")
    for folder in arguments[1:]:
        print(*rows(arguments[0], Path(folder)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])

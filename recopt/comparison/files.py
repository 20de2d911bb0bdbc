"""Files of a comparison: ``comparison.yaml`` repeats it, ``comparison.json`` has everything but the single runs,
``table.csv`` a row per competitor, ``runs.csv`` a row per run, ``curves.csv`` the bands of the curves, and
``comparison.png`` the picture.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..contracts.errors import RecoptError
from ..running.repeats import CAP, DIVERGED
from .figures import Entry, Figures, bands, row, trial_rows
from .spec import CompareSpec, report_seeds, tuning_seeds, write_compare_spec


class Found(NamedTuple):
    """The results of a comparison, as its files need them."""

    spec: CompareSpec
    entries: Sequence[Entry]
    figures: Sequence[Figures]
    reference: str


def plain(found: Found) -> dict[str, Any]:
    """Everything but the single runs, for JSON; NaN becomes None, and infinities become text."""
    spec, entries = found.spec, []
    for entry, figures in zip(found.entries, found.figures, strict=True):
        trainings = [{"seed": t.seed, "evaluations": t.evaluations, "run_id": t.run_id}
                     for t in entry.competitor.trainings]  # fmt: skip
        entries.append({
            **row(figures), "stack": entry.competitor.stack, "chosen": dict(entry.competitor.chosen),
            "notes": list(entry.competitor.notes), "tuning_score": entry.tuning_score, "restored": entry.runs.restored,
            "seconds": entry.runs.seconds, "trials": trial_rows(entry),
            **({"trained": trainings} if trainings else {}),
            "curve": {key: values.tolist() for key, values in bands(entry.runs).items()},
        })  # fmt: skip
    tested, tuned = report_seeds(spec), tuning_seeds(spec)
    about = {
        "spec": spec.model_dump(mode="json"), "reference": found.reference,
        "capped_at": CAP, "diverged_above": DIVERGED,
        "report_seeds": [tested[0], tested[-1]], "tuning_seeds": [tuned[0], tuned[-1]] if spec.baselines else None,
        "tuning_evaluations_each": spec.tune * spec.tune_tasks * spec.steps if spec.baselines else 0,
    }  # fmt: skip
    cleaned: dict[str, Any] = _clean({**about, "entries": entries})
    return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def save(found: Found, picture: Any, folder: Path) -> Path:
    """Write the files listed at the top of this module into ``folder``; ``picture`` is a matplotlib figure.

    Raises:
        RecoptError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.yaml").write_text(write_compare_spec(found.spec))
        (folder / "comparison.json").write_text(json.dumps(plain(found), indent=1, allow_nan=False) + "\n")
        _table(folder / "table.csv", [row(figures) for figures in found.figures])
        _table(folder / "runs.csv", _runs(found))
        _table(folder / "curves.csv", _curves(found))
        picture.savefig(folder / "comparison.png", dpi=150)
    except OSError as why:
        raise RecoptError(f"{folder} cannot be written ({why.strerror}): choose another place.") from None
    return folder


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    heads = list(dict.fromkeys(key for one in rows for key in one))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads)
        writer.writeheader()
        writer.writerows(rows)


def _runs(found: Found) -> list[dict[str, Any]]:
    rows, seeds = [], report_seeds(found.spec)
    for entry in found.entries:
        runs, trainings = entry.runs, entry.competitor.trainings
        score, diverged = runs.score(found.spec.measure), runs.diverged
        for n in range(len(score)):
            trained = {"trained_from": trainings[n // len(seeds)].seed} if trainings else {}
            rows.append({
                "name": entry.name, **trained, "seed": seeds[n % len(seeds)],
                "score": score[n], "first": runs.losses[n, 0],
                "final": runs.losses[n, -1], "diverged": int(diverged[n]),
                **{f"test_{key}": values[n] for key, values in runs.test.items()},
            })  # fmt: skip
    return rows


def _curves(found: Found) -> list[dict[str, Any]]:
    return [
        {"name": entry.name, "step": step, **{key: values[step] for key, values in kept.items()}}
        for entry in found.entries
        for kept in [bands(entry.runs)]
        for step in range(found.spec.steps + 1)
    ]

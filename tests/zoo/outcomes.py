"""What became of each model side by side and under an exact level, and the table of it in docs/compatibility.md."""

from __future__ import annotations

from . import ZOO, Entry

MAPPED, LOOPED = "mapped", "one by one"
HIGHER, CALLED, REFUSED = "higher", "functional_call", "refused"
SHORT = ", short"
"""Said to stop short of the second derivative, where the model does."""
USUAL = (MAPPED, HIGHER)
OUTCOMES: dict[tuple[str, str], dict[str, str]] = {
    (LOOPED, HIGHER): {
        "normalizations": "batch_cumulative",
        "dropout and noise": "rrelu",
        "losses of their own": "physics penalty adversary inner_step",
        "odd numerics": "routed",
        "recurrent": "lstm gru rnn rnn_relu deep_lstm both_ways dropout projected no_bias lstm_cell",
        "embeddings": "padded sparse",
    },
    (MAPPED, CALLED): {
        "odd classes": "abstract slots root is_root",
        "scripted": "root traced part normed convolution",
        "legacy norms": "weight weight_of_rows weight_of_all",
        "pruning": "magnitude random structured bias twice everywhere",
        "hooks": "forward pre with_keywords",
        "containers": "bare",
        "references": "list tuple dict bound_method function partial own_forward closure",
        "shared": "module",
    },
    (LOOPED, REFUSED): {
        "scripted": "recurrent",
        "odd numerics": "recomputed recomputed_reentrant",
        "embeddings": "bag_sparse",
        "hooks": "after_accumulation",
        "references": "tensors",
    },
    (MAPPED, HIGHER + SHORT): {
        "losses of their own": "actor_critic",
        "embeddings": "by_frequency",
    },
    (MAPPED, REFUSED): {
        "odd numerics": "distances",
        "embeddings": "bounded bag bag_sum bag_max",
    },
    (LOOPED, HIGHER + SHORT): {
        "odd numerics": "straight_through",
        "parametrizations": "spectral_norm",
        "hooks": "backward_pre",
    },
    (LOOPED, CALLED + SHORT): {
        "legacy norms": "spectral both",
        "hooks": "full_backward on_a_parameter on_activations",
    },
    (LOOPED, CALLED): {
        "legacy norms": "recurrent",
    },
}
"""The outcomes other than the usual ones, by kind."""


def outcome(entry: Entry) -> tuple[str, str]:
    """How a model is evaluated side by side, and under an exact level."""
    found = [key for key, kinds in OUTCOMES.items() if entry.name in kinds.get(entry.kind, "").split()]
    return found[0] if found else USUAL


def table() -> list[str]:
    """The lines of the table in the docs, one a kind."""
    lines = []
    for kind in sorted({entry.kind for entry in ZOO}):
        mine = [(entry.name.replace("_", " "), *outcome(entry)) for entry in ZOO if entry.kind == kind]
        looped = [name for name, side, _ in mine if side == LOOPED]
        refused = [name for name, _, exact in mine if exact == REFUSED]
        short = [name for name, _, exact in mine if exact.endswith(SHORT)]
        cells = [kind, f"{len(mine)}", _cell(looped, mine), _cell(refused, mine), _cell(short, mine)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(names: list[str], whole: list[tuple[str, str, str]]) -> str:
    return "all" if len(names) == len(whole) else ", ".join(names) or "–"

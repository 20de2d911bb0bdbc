"""The numbers that a strategy tells of its state, besides its hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts.strategy import Strategy
from ..levels.parts import Part
from ..levels.state import Numbers, SlotState


def told(
    name: str, strategy: Strategy, names: Sequence[str], slot: SlotState | Numbers, parts: Sequence[Part]
) -> dict[str, float]:
    """The numbers that a strategy tells of its first part's state, as ``name.key``; none without ``tells``."""
    tells = getattr(strategy, "tells", None)
    if tells is None or not parts:
        return {}
    if isinstance(slot, Numbers):
        hyper = {key: slot.value[key] for key in names if key in strategy._domains}
    else:
        natural = strategy.natural(dict(zip(names, [p.detach() for p in slot.params], strict=True)))
        hyper = {key: value.item() for key, value in natural.items()}
    return {f"{name}.{key}": value for key, value in tells(parts[0].strategy, hyper).items()}

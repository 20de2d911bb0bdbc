"""The cost of a run, per level: evaluations of losses, gradients and hypergradients, and seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Spent:
    """``loss`` and ``gradient`` count evaluations of one task; ``hypergradient`` counts vector-Jacobian products."""

    loss: int = 0
    gradient: int = 0
    hypergradient: int = 0
    seconds: float = 0.0


class Budget:
    """The account of a run. What a trial costs is charged to the level that tries; nothing is ever refunded."""

    def __init__(self, levels: int) -> None:
        self.levels = [Spent() for _ in range(levels)]

    def spend(
        self, number: int, *, loss: int = 0, gradient: int = 0, hypergradient: int = 0, seconds: float = 0.0
    ) -> None:
        """Charge level ``number`` (0-based)."""
        entry = self.levels[number]
        entry.loss += loss
        entry.gradient += gradient
        entry.hypergradient += hypergradient
        entry.seconds += seconds

    @property
    def total(self) -> Spent:
        """The sum over levels."""
        rows = self.levels
        return Spent(
            sum(r.loss for r in rows), sum(r.gradient for r in rows),
            sum(r.hypergradient for r in rows), sum(r.seconds for r in rows),
        )  # fmt: skip

    def plain(self) -> list[dict[str, float]]:
        """As JSON-able rows, one per level."""
        return [asdict(row) for row in self.levels]

    @classmethod
    def from_plain(cls, rows: list[dict[str, float]]) -> Budget:
        """The inverse of :meth:`plain`."""
        budget = cls(0)
        budget.levels = [Spent(**row) for row in rows]  # type: ignore[arg-type]
        return budget

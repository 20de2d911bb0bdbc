"""The cost of a run, per level: losses, gradients, Hessian-vector products, hypergradients, and seconds."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass


@dataclass
class Spent:
    """``loss`` and ``gradient`` count evaluations of one task, ``products`` Hessian-vector products of one.

    ``hypergradient`` counts the vector-Jacobian products that end windows.
    """

    loss: int = 0
    gradient: int = 0
    products: int = 0
    hypergradient: int = 0
    seconds: float = 0.0

    @property
    def evaluations(self) -> int:
        """All that was computed of the task: a Hessian-vector product takes about as long as a gradient."""
        return self.loss + self.gradient + self.products


class Budget:
    """The account of a run. What a trial costs is charged to the level that tries; nothing is ever refunded."""

    def __init__(self, levels: int) -> None:
        self.levels = [Spent() for _ in range(levels)]

    def spend(self, number: int, **spent: float) -> None:
        """Charge level ``number`` (0-based) for what ``spent`` says, by the names of :class:`Spent`."""
        entry = self.levels[number]
        for name, amount in spent.items():
            setattr(entry, name, getattr(entry, name) + amount)

    @property
    def total(self) -> Spent:
        """The sum over levels."""
        rows = [astuple(row) for row in self.levels]
        return Spent(*(sum(column) for column in zip(*rows, strict=True)))

    def plain(self) -> list[dict[str, float]]:
        """As JSON-able rows, one per level."""
        return [asdict(row) for row in self.levels]

    @classmethod
    def from_plain(cls, rows: list[dict[str, float]]) -> Budget:
        """The inverse of :meth:`plain`."""
        budget = cls(0)
        budget.levels = [Spent(**row) for row in rows]  # type: ignore[arg-type]
        return budget

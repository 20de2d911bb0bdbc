"""Where each level of a graph stands: what it moves by, and what the levels above it ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..contracts.domains import Positive
from ..contracts.errors import RecoptError
from ..core.graph import Graph
from ..core.level import Level
from .kernel import Kernel, offered
from .shards import Shards
from .slot import Slot


@dataclass(frozen=True)
class Place:
    """Where one level stands.

    Attributes:
        number: of the level, 0 the innermost.
        level: its spec.
        by: the slot of its strategy.
        window: its updates between two steps of the first-order levels above; 0 if there are none.
        objective: of the levels above.
        cosine: whether one of them reads cosines.
        moved: the parameters of its strategy that levels above move.
        seed: of what its strategy draws.
        fused: whether closed forms are used where the strategy offers them.
        guard: whether wild steps are acted upon.
        shards: how the model is split over processes.
    """

    number: int
    level: Level
    by: Slot
    window: int
    objective: str
    cosine: bool
    moved: frozenset[str]
    seed: int
    fused: bool
    guard: bool
    shards: Shards

    def weight(self, recorded: int) -> float:
        """∂J/∂f_t for the loss that came after ``recorded`` updates of a window."""
        if self.objective == "last":
            return 1.0 if recorded == self.window else 0.0
        return 1.0 / self.window if self.objective == "mean" else 1.0

    def kernel(self) -> Kernel | None:
        """The kernel of the strategy, if it can be used here: without one the strategy is taped."""
        kernel: Kernel | None = offered(self.by.strategy, "kernel") if self.fused and self.by.scalar else None
        short = self.window <= 1 or (getattr(kernel, "linear", False) and self.moved == {"lr"} and not self.cosine)
        return kernel if short else None

    def rate(self) -> int | None:
        """The index of the coordinate of the learning rate, if levels above move it and it is a logarithm."""
        slot = self.by
        if not slot.scalar or "lr" not in self.moved:
            return None
        index = slot.names.index("lr")
        return index if type(slot.domains[index]) is Positive else None

    def averages(self) -> bool:
        """Whether the level would have the model used elsewhere than where it is."""
        return self.by.strategy.keeps_mean() or self.level.average is not None

    def check_sharded(self) -> None:
        """Raise RecoptError if the model is split over processes, and this level of it needs whole tensors."""
        if self.shards and (self.kernel() is None or self.level.normalize not in (None, "none")):
            raise RecoptError(
                f"'{self.level.by}' on level {self.number + 1} needs whole tensors, but the parameters are "
                "sharded over processes (DTensor): use sgd, adam, rmsprop or adagrad there, fused, without "
                "normalize and with every=1 (more only where lr alone is moved), or DistributedDataParallel."
            )


def places(
    graph: Graph, slots: Mapping[str, Slot], *, fused: bool, guard: bool, seed: int, shards: Shards
) -> list[Place]:
    """The places of a graph's levels, innermost first."""
    found = []
    for number, level in enumerate(graph.levels):
        slot = slots[level.by]
        above = [n for n in range(len(graph.levels)) if number in graph.subjects[n]]
        differentiate = [graph.levels[n] for n in above if graph.order(n)]
        moving = [n for n, other in enumerate(graph.levels) if other.moves == level.by]
        found.append(
            Place(
                number=number,
                level=level,
                by=slot,
                window=(differentiate[0].every or 1) if differentiate else 0,
                objective=next((graph.levels[n].objective or "mean" for n in above), "mean"),
                cosine=any(other.normalize == "cosine" for other in differentiate),
                moved=frozenset(slot.names[i] for n in moving for i in graph.moved(n, slot.names)),
                seed=seed * 1000 + number,
                fused=fused,
                guard=guard,
                shards=shards,
            )
        )
    return found

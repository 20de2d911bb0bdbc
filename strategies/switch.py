"""One of several rules, which a zero-order level above chooses while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator, nn

from recopt import Params, RecoptError, State, Strategy, Trial, choice, option, strategy


class Switch(Strategy):
    """The rule called ``which`` of several; a level such as ``annealing[which]`` changes it.

    ``switch(among=[sgd(lr=0.1), adam])/annealing[which]`` chooses between two rules. A rule that is changed to starts
    from its first state at the present point; that of the one before is forgotten, its momentum too. What the rules
    have to move is named in their order: ``annealing[which, rules.1.lr]`` moves the second one's learning rate as well.
    """

    vectorize = False

    among = option(("sgd", "adam"), "the rules, each as in a stack, without levels above; all read gradients")
    which = choice("among", "the rule that is used")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not self.among:
            raise RecoptError("switch.among names no rule: give some, as in switch(among=[sgd, adam]).")
        self.rules = nn.ModuleList(strategy(str(text)) for text in self.among)
        for text, rule in zip(self.among, self._rules(), strict=True):
            if rule.order == 0:
                raise RecoptError(f"'{text}' in switch.among is zero-order: name rules that read gradients.")

    def _rules(self) -> list[Strategy]:
        return [rule for rule in self.rules if isinstance(rule, Strategy)]

    def init(self, point: Params) -> State:
        """No rule's state yet."""
        return {"which": -1, "own": {}}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        which = int(self.which)
        rule = self._rules()[which]
        own = state["own"] if state["which"] == which else rule.init(point)
        delta, own = rule(point, trials, own, rng)
        return delta, {"which": which, "own": own}

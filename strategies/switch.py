"""One of several rules, which a zero-order level above chooses while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, nn

from recopt import Params, RecoptError, State, Strategy, Trial, choice, option, strategy


class Switch(Strategy):
    """The rule called ``which`` of several; a level such as ``annealing[which]`` changes it.

    ``switch(among=[sgd(lr=0.1), adam])/annealing[which]`` chooses between two rules, of one kind with other sizes too:
    ``lstm(hidden=8)``, ``lstm(hidden=20)``. A rule that is changed to starts from its first state at the present point;
    that of the one before is forgotten, its momentum too. What the rules have to move is named in their order, and kept
    while another is used: ``annealing[which, rules.1.lr]`` moves the second one's learning rate as well.

    ``none`` among them makes no step, so that the number of levels is a choice: in
    ``adam/switch(among=[none, hypergradient])/annealing[which]`` the learning rate stays as it is while it is chosen.
    """

    vectorize = False

    among = option(("sgd", "adam"), "the rules, each as in a stack, without levels above; none makes no step")
    which = choice("among", "the rule that is used")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        named = {n: str(text) for n, text in enumerate(self.among) if text != "none"}
        if not named:
            raise RecoptError("switch.among names no rule: give some, as in switch(among=[sgd, adam]).")
        self.rules = nn.ModuleDict({str(n): strategy(text) for n, text in named.items()})
        for n, text in named.items():
            if self._rule(n).order == 0:
                raise RecoptError(f"'{text}' in switch.among is zero-order: name rules that read gradients.")
        self._domains |= {f"rules.{n}.{name}": x for n in named for name, x in self._rule(n)._domains.items()}
        self._agree(list(named.values()), [self._rule(n) for n in named])

    def _rule(self, number: int) -> Any:
        return self.rules[str(number)]

    def _agree(self, texts: Sequence[str], rules: Sequence[Strategy]) -> None:
        """Ask of the level what the rules ask of theirs. Raises RecoptError if they ask for different things."""
        for text, rule in zip(texts, rules, strict=True):
            if dict(rule.level) != dict(rules[0].level):
                each = [f"{name} {dict(one.level)}" for name, one in ((texts[0], rules[0]), (text, rule))]
                raise RecoptError(f"In switch.among {' and '.join(each)} ask different things of the level: keep one.")
        self.level = rules[0].level  # type: ignore[misc]
        self.reads_loss = any(rule.reads_loss for rule in rules)  # type: ignore[misc]

    def init(self, point: Params) -> State:
        """No rule's state yet."""
        return {"which": -1, "own": {}}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        which = int(self.which)
        if self.among[which] == "none":
            return [torch.zeros_like(p) for p in point], {"which": which, "own": {}}
        rule = self._rule(which)
        own = state["own"] if state["which"] == which else rule.init(point)
        delta, own = rule(point, trials, own, rng)
        return delta, {"which": which, "own": own}

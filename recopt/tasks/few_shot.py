"""Classification of new kinds of images from a few examples of each."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Split
from .classifier import Classifier
from .wrappers import Wrapper, members

_PLACES = {"train": 0, "valid": 1, "test": 2}


class FewShot(Wrapper):
    """Episodes of ``ways`` kinds of images with ``shots`` examples of each, made of any classifier's images.

    As Vinyals et al. 2016 (1606.04080) make them of Omniglot: each task of the family draws classes, their order, and
    for each one of the 8 rotations and reflections of the square (Santoro et al. 2016, 1605.06065, turn classes into
    new ones). ``kinds=seen`` draws among the classes with even numbers, ``kinds=new`` among those with odd ones, to try
    on what was learned elsewhere. The training batch is the same at every step.

    Raises:
        RecoptError: for an inner task that is no classifier of images, or has too few classes or examples.
    """

    of = option("digits(hidden=[64], activation=relu)", "the classifier, like mnist(net=cnn)")
    ways = option(5, "classes of a task")
    shots = option(1, "examples of each class that a task is learned from")
    queries = option(10, "other examples of each class that it is scored by")
    kinds = option("seen", "classes with even or with odd numbers", choices=("seen", "new"))

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        written = members(self.of, "few-shot.of")
        if len(written) != 1 or not isinstance(written[0], Classifier):
            raise RecoptError(f"few-shot.of must be one classifier of images, like mnist or digits, not '{self.of}'.")
        if min(self.ways, self.shots, self.queries) < 1:
            raise RecoptError("few-shot.ways, few-shot.shots and few-shot.queries must be 1 or more.")
        inner = written[0].sample(seed)
        have = len(range(self.kinds == "new", inner.classes, 2))
        if self.ways > have:
            raise RecoptError(f"few-shot.ways is {self.ways}, and there are {have} classes to draw: ask for fewer.")
        inner.classes = self.ways  # type: ignore[misc]
        self._rows: list[list[Tensor]] = []  # of each class, shared with all samples
        self.wrap(inner)

    def sample(self, seed: int) -> Self:
        return super().sample(seed).wrap(self.inner.sample(seed))

    def batch(self, index: int, split: Split = "train") -> Batch:
        """(x, y): ``ways · shots`` examples in training, else ``ways · queries``."""
        assert isinstance(self.inner, Classifier)
        x, y = self.inner.examples("train")
        if not self._rows:
            self._rows.append([torch.nonzero(y == c)[:, 0] for c in range(int(y.max()) + 1)])
        rows, dice = self._rows[0], self.generator(0)
        classes = torch.randperm(len(rows[self.kinds == "new" :: 2]), generator=dice)[: self.ways] * 2
        images, each = list[Tensor](), self.shots if split == "train" else self.queries
        for c in (classes + (self.kinds == "new")).tolist():
            need, place = self.shots + 2 * self.queries, _PLACES[split]
            if len(rows[c]) < need:
                raise RecoptError(f"Class {c} has {len(rows[c])} examples, and few-shot needs {need}: ask for fewer.")
            drawn = rows[c][torch.randperm(len(rows[c]), generator=dice).to(y.device)]
            first = 0 if split == "train" else self.shots + (place - 1) * self.queries
            turned = torch.rot90(x[drawn[first : first + each]], int(torch.randint(4, (), generator=dice)), (2, 3))
            images.append(turned.flip(3) if bool(torch.randint(2, (), generator=dice)) else turned)
        labels = torch.arange(self.ways, device=y.device).repeat_interleave(each)
        return self.inner.prepare(torch.cat(images)), labels

    def batches(self, split: Split) -> int:
        return 1

"""Classification with wrong labels among the training examples, whose weights may be learned."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Split
from .supervised import SPLIT_SEED, Supervised
from .wrappers import Wrapper, members

PIECE = 256
"""The most examples of a held-out batch."""


class NoisyLabels(Wrapper):
    """A classifier with a share of its training labels flipped, and a few clean examples to learn weights from.

    The benchmark of learned example weights (Ren et al. 2018, 1803.09050; Shu et al. 2019, 1902.07379): ``flip`` of the
    training labels are another class, drawn uniformly; ``clean`` examples of the ``valid`` split keep theirs, and the
    ``test`` split is as it was. What is flipped is the same for every seed.

    The training loss is Σ wᵢ ℓᵢ / Σ wᵢ over the batch. The weights wᵢ are parameters of the loss: a small network of
    ℓᵢ (``network``), or a number for each training example (``examples``). All are equal at the start, so that a stack
    that does not move them trains without weights. Of the network no derivative is taken through Σ wᵢ (Shu et al.
    divide by the size of the batch): through it the network learns to pass over all but examples of middling loss.

    Raises:
        RecoptError: for an inner task without labels, or a share or number that cannot be.
    """

    of = option("mnist", "the classifier, like digits(net=mlp)")
    flip = option(0.3, "share of the training labels that are wrong")
    clean = option(1000, "held-out examples with right labels; 0 for all there are")
    weights = option("network", "weights of examples", choices=("network", "examples"))
    width = option(100, "hidden units of the network that weighs")

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        written = members(self.of, "noisy-labels.of")
        if len(written) != 1 or not isinstance(written[0], Supervised):
            raise RecoptError(f"noisy-labels.of must be one classifier, like mnist or digits, not '{self.of}'.")
        if not 0 <= self.flip <= 1:
            raise RecoptError(f"noisy-labels.flip must be from 0 to 1, not {self.flip:g}.")
        if self.clean < 0 or self.width < 1:
            raise RecoptError("noisy-labels.clean must be 0 or more, and noisy-labels.width 1 or more.")
        self._labels: list[Tensor] = []  # shared with all samples, and empty until they are asked for
        self.wrap(written[0].sample(seed))

    @property
    def classifier(self) -> Supervised:
        """The task with its own labels."""
        assert isinstance(self.inner, Supervised)
        return self.inner

    def sample(self, seed: int) -> Self:
        return super().sample(seed).wrap(self.inner.sample(seed))

    def labels(self) -> Tensor:
        """The training labels, some of them flipped, shape (N,)."""
        right = self.classifier.examples("train")[1]
        if not self._labels:
            dice = torch.Generator().manual_seed(SPLIT_SEED)
            classes, count = int(right.max()) + 1, len(right)
            wrong = torch.randperm(count, generator=dice)[: round(self.flip * count)].to(right.device)
            noisy = right.clone()
            noisy[wrong] += torch.randint(1, classes, (len(wrong),), generator=dice).to(right)
            self._labels.append(noisy % classes)
        self._labels[0] = self._labels[0].to(right.device)
        return self._labels[0]

    def batch(self, index: int, split: Split = "train") -> Batch:
        """(x, y), and in training the numbers of the examples, each of length B."""
        if split == "test":
            return self.inner.batch(index, split)
        x, y = self.classifier.examples(split)
        if split == "valid":
            pieces, count = self.batches(split), self._count()
            low, high = (count * (index % pieces + k) // pieces for k in (0, 1))
            return self.classifier.prepare(x[low:high]), y[low:high]
        rows = self.classifier.rows(index).to(y.device)
        return self.classifier.prepare(x.index_select(0, rows)), self.labels().index_select(0, rows), rows

    def batches(self, split: Split) -> int:
        return math.ceil(self._count() / PIECE) if split == "valid" else self.inner.batches(split)

    def _count(self) -> int:
        have = len(self.classifier.examples("valid")[1])
        return min(self.clean, have) or have

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.inner.loss(model, batch[:2])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.metrics(model, batch[:2])

    def loss_parameters(self) -> nn.Module:
        if self.weights == "examples":
            return nn.ParameterDict({"weights": torch.zeros(len(self.labels()))})
        last = nn.Linear(self.width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(1, self.width), nn.ReLU(), last)

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        x, y, rows = batch
        losses = functional.cross_entropy(model(x), y, reduction="none")
        if isinstance(parameters, nn.ParameterDict):
            weights = parameters["weights"][rows].sigmoid()
            total = weights.sum()
        else:
            weights = parameters(losses.detach()[:, None])[:, 0].sigmoid()
            total = weights.sum().detach()
        found: Tensor = (weights * losses).sum() / total
        return found

"""The base of tasks that learn labels from examples held in memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checking.errors import RecoptError
from ..contracts.settings import option, plain_name
from ..contracts.task import Batch, Split, Task

SPLIT_SEED = 20160614
"""Seed of the validation split: a constant, so that every task of a family holds out the same examples."""

Examples = tuple[Tensor, Tensor]
"""x of shape (N, …) and y of shape (N,), whole numbers for classes."""


_KNOWN: WeakValueDictionary[Hashable, SharedExamples] = WeakValueDictionary()


class SharedExamples(dict[str, Examples]):
    """The examples per split, shared by a task and its samples; empty until the first use loads them.

    ``moments`` holds statistics of the training examples once they are computed. Nothing of it goes to another
    process, which loads the examples itself.
    """

    def __init__(self, key: Hashable = None) -> None:
        super().__init__()
        self.key, self.note = key, ""
        self.moments: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, key: Hashable = None) -> SharedExamples:
        """Those of this process under ``key``, kept as long as any task uses them; new ones for None."""
        return cls() if key is None else _KNOWN.setdefault(key, cls(key))

    def __reduce__(self) -> Any:
        return self.of, (self.key,)


class Epochs:
    """The order of the training examples in each epoch; the last one that was asked for is kept."""

    def __init__(self) -> None:
        self._last: tuple[tuple[int, int], Tensor] | None = None

    def order(self, task: Task, epoch: int, count: int) -> Tensor:
        """All indices below ``count``, in the order that the task's seed and ``epoch`` draw."""
        key = (task.seed, epoch)
        if self._last is None or self._last[0] != key:
            self._last = (key, torch.randperm(count, generator=task.generator(epoch)))
        return self._last[1]


class Supervised(Task):
    """Classification of examples held in memory. Subclasses implement :meth:`data` and :meth:`model`.

    Training batches are consecutive pieces of one stream, the concatenation of the epochs. Each epoch has
    all training examples once, in an order drawn from (seed, epoch). Every batch has ``batch_size``
    examples: the one at an epoch's end is completed from the next epoch.

    Held-out splits are read in order, in pieces of at most 256 examples, or ``batch_size`` if that is more.
    The pieces have equal sizes if a near number of pieces divides the split, so that the mean of their
    means is the mean over the split. Else they differ by one example, and so the weights by 1/256.

    Subclasses may also override :meth:`prepare` (raw x to floats) and :meth:`loss` / :meth:`metrics`.

    Class attributes:
        held_out: the share of the training examples used as ``valid`` if ``data`` has none.

    Raises:
        RecoptError: if ``batch_size`` is negative or more than there are training examples.
    """

    batch_size = option(128, "examples in a training batch; 0 for all of them")

    metric = "accuracy"
    held_out: ClassVar[float] = 0.1

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        self._where = plain_name(type(self))
        if self.batch_size < 0:
            raise RecoptError(f"{self._where}.batch_size must be 0 or more, not {self.batch_size}.")
        self._epochs = Epochs()
        self._shared = self.shared()

    def shared(self) -> SharedExamples:
        """The examples, empty as yet. A subclass may return some that other tasks share too."""
        return SharedExamples.of()

    def data(self) -> Mapping[str, Examples]:
        """The examples (x, y) under ``train`` and ``test``, and ``valid`` unless it is to be taken from ``train``.

        Called once for a task and all its samples. x may be whole numbers (uint8 images):
        :meth:`prepare` turns each batch into floats.
        """
        raise NotImplementedError(f"{type(self).__name__} has no data.")

    def prepare(self, x: Tensor) -> Tensor:
        """A batch of x as the model takes it: floats. uint8 is divided by 255, floats stay as they are."""
        return x.float() / 255 if x.dtype == torch.uint8 else x

    def examples(self, split: Split = "train") -> Examples:
        """All examples of ``split``: raw x, and y."""
        if not self._shared:
            self._shared.update(carve(dict(self.data()), self.held_out))
        return self._shared[split]

    def to(self, device: torch.device | str) -> Self:
        """Move the data to ``device``, for this task and all its samples; batches are gathered there."""
        for split, (x, y) in [(s, self.examples(s)) for s in SPLITS]:
            self._shared[split] = (x.to(device), y.to(device))
        return self

    def batch(self, index: int, split: Split = "train") -> Batch:
        """(x, y): prepared floats of shape (B, …), and labels of shape (B,)."""
        x, y = self.examples(split)
        if split != "train":
            pieces = self.batches(split)
            low, high = (len(y) * (index % pieces + k) // pieces for k in (0, 1))
            return self.prepare(x[low:high]), y[low:high]
        rows = self.rows(index).to(y.device)
        # Twenty times as fast as x[rows] on a CPU.
        return self.prepare(x.index_select(0, rows)), y.index_select(0, rows)

    def rows(self, index: int) -> Tensor:
        """The indices of the training examples in batch ``index``: ``batch_size`` whole numbers."""
        count = len(self.examples("train")[1])
        size = self.batch_size or count
        if size > count:
            place = f"{self._where}.batch_size is {size}"
            raise RecoptError(f"{place}, but there are {count} training examples: give fewer, or 0 for all.")
        epoch, low = divmod(index * size, count)
        head = self._epochs.order(self, epoch, count)[low : low + size]
        if len(head) == size:
            return head
        return torch.cat([head, self._epochs.order(self, epoch + 1, count)[: size - len(head)]])

    def batches(self, split: Split) -> int:
        """The number of batches in one pass: exact for held-out splits, rounded up for ``train``."""
        count = len(self.examples(split)[1])
        if split == "train":
            return math.ceil(count / (self.batch_size or count))
        least = math.ceil(count / max(256, self.batch_size))
        return next((n for n in range(least, 2 * least + 1) if count % n == 0), least)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean cross entropy, in nats."""
        x, y = batch
        return functional.cross_entropy(model(x), y)

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``accuracy``: the share of examples whose largest logit is at the label."""
        x, y = batch
        logits = model(x)
        return {"accuracy": (logits.argmax(-1) == y).to(logits.dtype).mean()}


SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def carve(data: dict[str, Examples], share: float) -> dict[str, Examples]:
    """``data`` with a ``valid`` split; if missing, it is ``share`` of ``train``, drawn by :data:`SPLIT_SEED`."""
    if "valid" in data:
        return data
    x, y = data["train"]
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
    cut = max(1, round(share * len(y)))
    held, kept = order[:cut].sort().values, order[cut:].sort().values
    return {**data, "train": (x[kept], y[kept]), "valid": (x[held], y[held])}

"""scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from ..contracts.settings import option
from .classifier import Classifier
from .supervised import SPLIT_SEED, Examples, Supervised


class Digits(Classifier):
    """scikit-learn's 1,797 real 8 × 8 images of digits.

    They are the test set of the Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), come
    with scikit-learn and need no download. A fixed random split gives 1,197 for training, 300 for
    validation and 300 for the test.
    """

    batch_size = option(64, Supervised.batch_size.help)

    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    classes: ClassVar[int] = 10
    white: ClassVar[float] = 16.0

    def data(self) -> Mapping[str, Examples]:
        from sklearn.datasets import load_digits

        loaded = load_digits()
        x = torch.from_numpy(loaded.images).to(torch.uint8).unsqueeze(1)
        y = torch.from_numpy(loaded.target).long()
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
        parts = zip(("valid", "test", "train"), order.tensor_split((300, 600)), strict=True)
        return {split: (x[rows], y[rows]) for split, rows in parts}

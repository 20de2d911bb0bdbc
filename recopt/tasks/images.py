"""Classifiers of the image data sets of :mod:`recopt.data`, and of scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from .. import data
from ..contracts.settings import option
from ..data.folder import data_folder
from .classifier import NORMALIZATIONS, Classifier
from .supervised import SPLIT_SEED, Examples, SharedExamples, Supervised


class Images(Classifier):
    """A classifier on one of the sets of :mod:`recopt.data`, which documents the places of the files.

    A tenth of the official training set is held out for validation; the test set is the official one. The
    defaults are the network of Andrychowicz et al. 2016 (1606.04474, §3.2): one hidden layer of 20
    sigmoid units, batches of 128, pixels in [0, 1]. Their initial weights are ``init="normal"``; the default
    here is torch's, with which Adam is faster. Compare summed losses only under the same ``init``.

    The set is held once in memory (as uint8) for all tasks of a process that use it.

    Class attributes:
        dataset: the name of the set.
    """

    dataset: ClassVar[str]
    shape = (1, 28, 28)
    classes = 10

    def shared(self) -> SharedExamples:
        return SharedExamples.of((self.dataset, data_folder()))

    def data(self) -> Mapping[str, Examples]:
        loaded = data.load(self.dataset)
        self._shared.note = loaded.note
        return {"train": loaded.train, "test": loaded.test}

    @property
    def note(self) -> str:
        """A remark on this copy of the set (see ``recopt.data.ImageSet``); usually empty."""
        self.examples()
        return self._shared.note


class MNIST(Images):
    """Handwritten digits, 60,000 + 10,000 images of 28 × 28 (LeCun et al. 1998)."""

    dataset = "mnist"


class FashionMNIST(Images):
    """Articles of clothing, 60,000 + 10,000 images of 28 × 28 (Xiao et al. 2017)."""

    dataset = "fashion-mnist"


class EMNIST(Images):
    """Handwritten letters in 26 classes, 124,800 + 20,800 images of 28 × 28 (Cohen et al. 2017, Letters)."""

    dataset = "emnist"
    classes = 26


class CIFAR10(Images):
    """Photographs in 10 classes, 50,000 + 10,000 colour images of 32 × 32 (Krizhevsky 2009)."""

    normalization = option("standard", Classifier.normalization.help, choices=NORMALIZATIONS)
    dataset = "cifar10"
    shape = (3, 32, 32)


class SVHN(CIFAR10):
    """House numbers' digits, 73,257 + 26,032 colour images of 32 × 32 (Netzer et al. 2011).

    The cropped digits; the 531,131 extra ones are not used.
    """

    dataset = "svhn"


class Digits(Classifier):
    """scikit-learn's 1,797 real 8 × 8 images of digits.

    They are the test set of the Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), come
    with scikit-learn and need no download. A fixed random split gives 1,197 for training, 300 for
    validation and 300 for the test.
    """

    batch_size = option(64, Supervised.batch_size.help)

    shape = (1, 8, 8)
    classes = 10
    white = 16.0

    def data(self) -> Mapping[str, Examples]:
        from sklearn.datasets import load_digits

        loaded = load_digits()
        x = torch.from_numpy(loaded.images).to(torch.uint8).unsqueeze(1)
        y = torch.from_numpy(loaded.target).long()
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
        parts = zip(("valid", "test", "train"), order.tensor_split((300, 600)), strict=True)
        return {split: (x[rows], y[rows]) for split, rows in parts}

"""Classifiers of the image data sets of :mod:`recopt.data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

from .. import data
from ..contracts.settings import option
from ..data.folder import data_folder
from .classifier import NORMALIZATIONS, Classifier
from .supervised import Examples, Store

_STORES: WeakValueDictionary[tuple[str, Path], Store] = WeakValueDictionary()
"""One store per set and folder, kept as long as any task uses it."""


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

    def store(self) -> Store:
        return _STORES.setdefault((self.dataset, data_folder()), Store())

    def data(self) -> Mapping[str, Examples]:
        loaded = data.load(self.dataset)
        self._store.note = loaded.note
        return {"train": loaded.train, "test": loaded.test}

    @property
    def note(self) -> str:
        """A remark on this copy of the set (see ``recopt.data.ImageSet``); usually empty."""
        self.examples()
        return self._store.note


class MNIST(Images):
    """Handwritten digits, 60,000 + 10,000 images of 28 × 28 (LeCun et al. 1998)."""

    dataset = "mnist"
    shape = (1, 28, 28)
    classes = 10


class FashionMNIST(Images):
    """Articles of clothing, 60,000 + 10,000 images of 28 × 28 (Xiao et al. 2017)."""

    dataset = "fashion-mnist"
    shape = (1, 28, 28)
    classes = 10


class EMNIST(Images):
    """Handwritten letters in 26 classes, 124,800 + 20,800 images of 28 × 28 (Cohen et al. 2017, Letters)."""

    dataset = "emnist"
    shape = (1, 28, 28)
    classes = 26


class CIFAR10(Images):
    """Photographs in 10 classes, 50,000 + 10,000 colour images of 32 × 32 (Krizhevsky 2009)."""

    normalization = option("standard", Classifier.normalization.help, choices=NORMALIZATIONS)

    dataset = "cifar10"
    shape = (3, 32, 32)
    classes = 10


class SVHN(Images):
    """House numbers' digits, 73,257 + 26,032 colour images of 32 × 32 (Netzer et al. 2011).

    The cropped digits; the 531,131 extra ones are not used.
    """

    normalization = option("standard", Classifier.normalization.help, choices=NORMALIZATIONS)

    dataset = "svhn"
    shape = (3, 32, 32)
    classes = 10

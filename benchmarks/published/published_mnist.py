"""MNIST as the published experiments use it: all 60,000 images train, and the 10,000 test images are held out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from recopt.contracts.settings import option
from recopt.tasks.images import MNIST
from recopt.tasks.supervised import Examples, SharedExamples


class PublishedMnist(MNIST):
    """MNIST with nothing carved from its training set; the networks of two papers are settings of it.

    Baydin et al. 2018 (1703.04782): ``normalization=standard``, batches of 128; their validation set is the test set.
    Chandra et al. 2022 (1909.13371): 784-128-10 with ``squashed=true``, since the published model takes the tanh of
    its logits too.
    """

    squashed = option(False, "take the tanh of the logits, as the published code of Chandra et al. does")

    def shared(self) -> SharedExamples:
        return SharedExamples()  # not the one that MNIST's own tasks share, which holds out a tenth

    def data(self) -> Mapping[str, Examples]:
        found = super().data()
        return {**found, "valid": found["test"]}

    def model(self) -> nn.Module:
        built = super().model()
        return nn.Sequential(*built, nn.Tanh()) if self.squashed and isinstance(built, nn.Sequential) else built

"""Image data sets as tensors in memory: MNIST, Fashion-MNIST, EMNIST Letters, CIFAR-10, SVHN.

``load(name)`` reads a set from the data folder and fetches what is missing from its official place.

* ``RECOPT_DATA`` is the data folder; unset, ``$XDG_CACHE_HOME/recopt/data`` or ``~/.cache/recopt/data``. Its layout
  is torchvision's, so a folder that torchvision has filled can be given (but for CIFAR-10, which
  torchvision keeps pickled; here it is the binary version, and nothing is ever unpickled).
* ``RECOPT_OFFLINE=1`` forbids fetching; what is missing is then named, with where to get and put it.
* Fashion-MNIST is also found where Debian's package ``dataset-fashion-mnist`` puts it.

Files that are fetched are held to a digest. Files that are found are not (recompressed and partial copies are
common) but must be whole and have the right form; :attr:`ImageSet.note` says if there are fewer images
than the official set has.
"""

from __future__ import annotations

from .sets import ImageSet, load, names

__all__ = ["ImageSet", "load", "names"]

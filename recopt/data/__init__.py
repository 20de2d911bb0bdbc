"""Image data sets as tensors in memory: MNIST, Fashion-MNIST, EMNIST Letters, CIFAR-10, SVHN.

``load(name)`` reads a set from the data folder and fetches missing files from their official source.

* ``RECOPT_DATA`` is the data folder; unset, ``$XDG_CACHE_HOME/recopt/data`` or ``~/.cache/recopt/data``. Its layout
  is torchvision's, so that both can share a folder. Only CIFAR-10 differs: torchvision keeps it pickled; here it is
  the binary version, and nothing is ever unpickled.
* ``RECOPT_OFFLINE=1`` forbids fetching; the error then lists the missing files, their sources and their places.
* Fashion-MNIST is also found where Debian's package ``dataset-fashion-mnist`` puts it.

Fetched files are checked against a digest. Files that were there are not, since recompressed and partial copies are
common, but they must be whole and have the right form. :attr:`ImageSet.note` says if there are fewer images than in
the official set.
"""

from __future__ import annotations

from .sets import ImageSet, load, names

__all__ = ["ImageSet", "load", "names"]

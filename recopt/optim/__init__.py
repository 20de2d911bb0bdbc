"""The parts of :class:`recopt.Optimizer`, from below.

A ``slot`` has a strategy's coordinates. ``movers`` let the strategy step and differentiate what it did: by closed
forms (``kernel``) or from the ``record`` of a tape. A level stands at a ``place`` of the graph: on level 1 as one of
the ``rungs``, over ``columns`` of a model's tensors, and above as one of ``upper`` or as a ``searcher``. A ``tower``
is all levels over some tensors, with its ``guard``; ``towers`` are all of an optimizer.
"""

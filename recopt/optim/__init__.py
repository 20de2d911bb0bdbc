"""The parts of :class:`recopt.Optimizer`.

A ``driver`` is one tower of :mod:`recopt.core` over some tensors, with its state; ``towers`` are all of an optimizer.
``groups`` and ``stack_graph`` read the user's words, ``points`` and ``losses`` the training loop's tensors. ``plain``,
``fitting``, ``remake`` and ``state_dict`` save the state and check one that is loaded.
"""

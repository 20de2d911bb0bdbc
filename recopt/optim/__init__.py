"""The parts of :class:`recopt.Optimizer`.

A ``driver`` is one tower of :mod:`recopt.core` over some tensors, with its state; ``towers`` are all of an optimizer.
``groups`` and ``stack_graph`` read the user's words, ``points`` the training loop's tensors and losses. ``stateful`` is
what checkpoints meet: ``state_dict``, with ``fit`` and ``remake``, saves the state and checks a loaded one. ``modes``
has the model where it is to be used, and back.
"""

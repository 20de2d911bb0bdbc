"""Closed forms that shipped strategies name as their ``kernel`` and ``formula`` (see recopt.optim.kernel)."""

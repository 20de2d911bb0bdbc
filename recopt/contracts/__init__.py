"""Contracts of strategies and tasks: their settings, and the trees of tensors that they exchange."""

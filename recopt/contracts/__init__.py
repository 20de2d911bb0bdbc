"""Contracts of strategies and tasks, their settings, trees of tensors, and errors."""

"""Processes that ``torchrun`` starts, among which the tasks of one run are divided."""

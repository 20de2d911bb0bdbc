"""Estimators: the ways to obtain the signal of a level, one file each."""

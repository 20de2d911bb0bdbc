"""Plots of runs, comparisons and graphs."""

"""Recorded runs, and what went wrong in them."""

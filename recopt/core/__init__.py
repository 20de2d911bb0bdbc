"""Levels and their graph: the notation, what is filled in, what is refused, and the state of a run."""

"""The record of a run: its trace, and the tracker that keeps a store up with it."""

"""The record of a run: its trace, and the tracker that sends it to a store."""

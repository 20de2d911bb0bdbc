"""A run from a spec to its result: planned, started, measured, saved, recorded and exported."""

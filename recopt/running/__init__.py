"""Runs, from spec to result: plan, session, measurements, checkpoints, record and export."""

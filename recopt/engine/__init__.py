"""The engine: evaluates a task, sends signals up the levels, and steps them from the top down."""

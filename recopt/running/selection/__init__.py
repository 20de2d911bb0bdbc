"""Selection of the values that a run exports."""

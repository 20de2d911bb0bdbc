"""Pictures of runs, comparisons and graphs."""

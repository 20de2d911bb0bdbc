"""Zero-order levels above the task: trials of points, scored by what happens after them."""

"""Search: trials of zero-order levels above the task, proposals of settings, and executors that try them."""

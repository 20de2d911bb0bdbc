"""What everything else is written against: strategies, tasks, their settings, trees of tensors, and errors."""

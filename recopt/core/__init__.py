"""The tower: the levels of a graph at work on a task, for runs and :class:`recopt.Optimizer` alike."""

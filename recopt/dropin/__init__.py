"""The parts of :class:`recopt.Optimizer`: slots, movers, towers, kernels, guards."""

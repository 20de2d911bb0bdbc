"""Checks of what comes from outside (arguments, values, saved files), and the errors that refuse it."""

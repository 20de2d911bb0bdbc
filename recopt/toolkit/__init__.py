"""Tools for plugins besides the public names: building blocks of learned rules, and random draws."""

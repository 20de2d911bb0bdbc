"""Levels: their settings, notation and graph, and the state that they work on."""

"""Strategies and levels by name: plugins, terms of the notation, and exported rules."""

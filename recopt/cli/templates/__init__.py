"""Templates of ``recopt new``; the given name replaces ``Template``."""

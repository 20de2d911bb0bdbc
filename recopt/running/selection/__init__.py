"""Which values a run hands on."""

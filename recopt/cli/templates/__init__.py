"""What ``recopt new`` writes; ``Template`` becomes the name that is given."""

"""How the signal of a level is obtained: one file each."""

"""Checkpoints: safe reading, key tables from other code bases to ours, the check that they fit, expansion."""

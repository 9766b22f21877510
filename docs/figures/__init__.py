"""The pictures that docs/figures.py writes."""

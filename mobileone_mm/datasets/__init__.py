"""Datasets: found before anything else starts, drawn, and images of the user."""

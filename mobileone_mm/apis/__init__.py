"""What tools/ call."""

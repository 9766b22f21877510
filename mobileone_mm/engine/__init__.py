"""What works inside mm's Runner: hooks, configs, trained models."""

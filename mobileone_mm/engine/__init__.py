"""Parts for mm's Runner: hooks, configs, trained models."""

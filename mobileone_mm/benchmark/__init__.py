"""Parameters, MACs and latency beside peers, as tables and plots; the model card."""

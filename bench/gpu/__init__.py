"""What runs on a GPU, measured there; rehearsed where there is none. `python -m bench.run --backend cuda`."""

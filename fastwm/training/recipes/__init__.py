"""One file per objective: what `loop.py` is given to train."""

"""Measurements: `python -m bench.run`. Every speed stands beside a parity check of the same shapes, machine and versions."""

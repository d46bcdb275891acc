"""stable-worldmodel's own evaluation with its solver and with ours: python -m bench.swm_evaluation, see __main__.py."""

"""Planning on a GPU: where it runs, what runs, and when."""

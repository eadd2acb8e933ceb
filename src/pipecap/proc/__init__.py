"""Other processes, read through /proc and not judged."""

"""Other processes, seen through /proc: read only, but for rescue."""

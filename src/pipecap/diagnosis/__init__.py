"""What hangs a program, why, and what frees it."""

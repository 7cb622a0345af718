"""Held-out steps, resolve rate, math accuracy, and their intervals."""

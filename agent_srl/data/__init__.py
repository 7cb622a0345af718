"""Trajectories: reading, recording, cutting into steps, rendering."""

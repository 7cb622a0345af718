"""Wire formats of the environment service."""

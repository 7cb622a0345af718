"""Run commands in isolation: one protocol, two backends (bubblewrap, Docker)."""

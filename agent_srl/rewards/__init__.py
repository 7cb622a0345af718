"""Parse a reply, then score its action."""

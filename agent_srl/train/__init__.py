"""From scored groups to updated weights."""

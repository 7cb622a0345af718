"""Parse a reply, then score its action: as characters, as tokens, or as what it does (`structured`)."""

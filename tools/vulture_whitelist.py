"""Names that vulture must take for used: one expression a line, with who uses it."""

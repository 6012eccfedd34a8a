"""Names that vulture must take for used: one expression a line, with who uses it."""

sector  # noqa: B018, F821  # a parameter of the protocol SwapDevice, which only tests implement so far

"""Data structures of lib/: below mm, handed what they allocate with."""

"""Files that the kernel shows as text."""

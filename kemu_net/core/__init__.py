"""Buffers, sockets and devices: net/core."""

"""Packet sockets."""

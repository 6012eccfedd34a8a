"""Hooks on the way of a packet: net/netfilter."""

"""The reserves that IPv6 asks for: net/ipv6."""

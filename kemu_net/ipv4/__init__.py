"""IPv4, UDP and TCP: net/ipv4."""

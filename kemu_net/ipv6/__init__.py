"""IPv6, as far as it is reached, and holds memory of the receive path: net/ipv6."""

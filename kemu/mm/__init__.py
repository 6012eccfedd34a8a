"""Memory: from gfp flags to reclaim and swap."""

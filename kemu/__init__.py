"""kemu: an executable reference of how a Linux kernel that is out of memory can still swap over the network."""

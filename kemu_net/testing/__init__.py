"""Tools that drive a stack from outside: scripts in the packetdrill language."""

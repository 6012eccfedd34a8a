"""Sockets as programs know them: descriptors, system calls, options, poll."""

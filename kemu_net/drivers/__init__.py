"""A ring NIC, the wire, and foreign traffic."""

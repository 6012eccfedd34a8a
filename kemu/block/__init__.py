"""The block layer: where mempools serve swap."""

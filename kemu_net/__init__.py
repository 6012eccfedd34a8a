"""sk_buff to TCP: the network half of kemu."""

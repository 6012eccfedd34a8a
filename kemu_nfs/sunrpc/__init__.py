"""XDR and the RPC client: net/sunrpc."""

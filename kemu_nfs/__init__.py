"""RPC, the NFS client with its swap operations, and an NFSv3 server: the storage half of kemu."""

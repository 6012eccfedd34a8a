"""The NFSv3 client: fs/nfs."""

"""An NFSv3 and MOUNT server: bytes in, bytes out."""

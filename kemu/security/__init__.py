"""The access vector cache."""

"""A finished bundle at work."""

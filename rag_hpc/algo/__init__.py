"""Pure functions over arrays and strings."""

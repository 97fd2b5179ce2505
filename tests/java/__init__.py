"""How the package's Java class is compiled."""

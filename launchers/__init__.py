"""How stages reach machines."""

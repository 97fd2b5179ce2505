"""The serving fleet under load."""

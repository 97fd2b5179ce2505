"""Wikipedia: dumps and the API."""

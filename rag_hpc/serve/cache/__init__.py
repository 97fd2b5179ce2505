"""Caches of the serving fleet: what was found or answered before is given again, and never to the wrong question."""

"""The caches of the serving fleet: false hits, hit rates, times, tokens saved."""

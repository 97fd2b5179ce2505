"""The demo's corpus: the documentation of the Python that runs it, as a web site."""

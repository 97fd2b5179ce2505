"""Text extraction beside trafilatura."""

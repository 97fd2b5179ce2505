"""Which texts are kept: filters, language, personal data."""

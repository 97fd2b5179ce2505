"""Finding passages in a finished run, and answering from them."""

"""Characters, words, sentences and edits of a text."""

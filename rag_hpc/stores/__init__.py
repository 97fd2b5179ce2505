"""Tables that pass between stages: a file each, with its name, columns, reader and writer."""

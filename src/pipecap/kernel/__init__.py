"""One pipe, one host: the slot rule, one descriptor, the limits. Nothing here knows multiprocessing objects."""

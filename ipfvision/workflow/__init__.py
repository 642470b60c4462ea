"""The use cases: the only thing that pages and the command line call."""

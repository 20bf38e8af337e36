"""The data path, one module per stage in the order in which data flows."""

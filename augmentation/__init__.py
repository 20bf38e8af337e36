"""Augmented datasets: a recipe says which edits a dataset gets, gates say which of them are kept."""

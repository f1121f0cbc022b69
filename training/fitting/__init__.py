"""Split, search and fit of a model."""

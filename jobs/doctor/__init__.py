"""The checks of `winback doctor`: everything that a run needs."""

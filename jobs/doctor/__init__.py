"""`winback doctor`: checks of everything that a run needs."""

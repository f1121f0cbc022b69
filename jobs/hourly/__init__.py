"""One run: window, features, score, decide, commit, audience, sync, report."""

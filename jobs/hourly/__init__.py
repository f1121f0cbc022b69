"""The run: build features, score, decide, commit, build the audience, sync, report."""

"""What stands in for the outside world on a laptop: an app, a CRM, a demo."""

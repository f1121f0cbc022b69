"""HubSpot: client, property checks and parser of replies."""

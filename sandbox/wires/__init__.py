"""One file per wire format that the local CRM speaks. Each has a class with `paths` and `add_to(app, desk)`."""

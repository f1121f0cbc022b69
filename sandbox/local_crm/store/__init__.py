"""What the local CRM keeps."""

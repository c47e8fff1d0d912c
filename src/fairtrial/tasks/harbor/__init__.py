"""Tasks in the Harbor format: read, planned and built without a container engine."""

"""The dashboard, looked at with a browser that has no mercy."""

"""What is asked over HTTP, one module per subject; each route declares its guard and calls a command or a reading."""

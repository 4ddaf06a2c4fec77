"""The dashboard: pages made on the server, kept current by one small script, whole without it."""

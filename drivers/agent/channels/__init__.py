"""The agent's way to its servers: one channel to each, over a WebSocket or by polls, kept for ever."""

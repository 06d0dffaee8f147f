"""Where the source objective comes from."""

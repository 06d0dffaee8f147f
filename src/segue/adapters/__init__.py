"""One framework per file; none imports another."""

"""How a bank changes: what a build came to, the change that it makes, and its atomic publication."""

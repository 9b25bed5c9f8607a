"""From clicked item vectors to a user vector."""

"""From content to item vectors."""

"""From other people's files to our tables: readers, and what they found odd."""

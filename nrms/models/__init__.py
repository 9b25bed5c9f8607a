"""From batches to scores: what an item is (items), who the user is (users), and where they meet (recommender)."""

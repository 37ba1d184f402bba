"""What a trainer will do, what it did, and what is very probably wrong with it."""

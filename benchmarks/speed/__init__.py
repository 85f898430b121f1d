"""What the transformations cost: time and memory."""

"""Training on several processes: who is who, how gradients become one, and what happens when one of them is lost."""

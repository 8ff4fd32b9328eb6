"""How much each request computes per step: what a step will cost, what it will yield, and the choice between them."""

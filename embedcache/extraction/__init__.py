"""From an input to a store: plan, estimate, pre-flight, the loop itself, and the check of what it wrote."""

"""The audit: what a split shares, what the labels are confounded with, what a result owes to either."""

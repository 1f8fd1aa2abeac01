"""What the published design costs and what ours costs, measured in one process and side by side."""

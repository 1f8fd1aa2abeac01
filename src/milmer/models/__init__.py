"""Networks. They know nothing of disks."""

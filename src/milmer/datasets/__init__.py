"""Publishers' layouts, each read into the same `Trial`."""

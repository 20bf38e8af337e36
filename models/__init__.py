"""Networks in pure torch: generator state, inverters, editors, perception and packs; no Ray, no datasets, no command line."""

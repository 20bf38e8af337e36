"""One plain training loop per kind of network, usable without Ray."""

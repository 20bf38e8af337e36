"""What a user submits: thin entry points that parse a config, call the pipeline or a training loop and say where the result is."""

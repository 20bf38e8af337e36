"""Trainings on a cluster: configuration, Ray Train around the plain loop, MLflow around both."""

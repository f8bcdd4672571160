"""Training of in-filling generators and of small classifiers."""

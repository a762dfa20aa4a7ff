"""Training: what makes the weights that the package ships. Nothing here runs in the product."""

"""The method for one image, and its vmap: mask law, objective, optimisation, judgement. Pure."""

"""How good explanations are: records of runs -> numbers of every image -> tables."""

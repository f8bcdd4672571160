"""Published weights: reads their files without running them and lays them out as our params."""

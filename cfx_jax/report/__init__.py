"""What people look at: pictures, plots, the page and the tables of a run; no accelerator needed."""

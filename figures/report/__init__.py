"""The page of one or several training runs, to look at in a browser: one file, which asks nothing of any network."""

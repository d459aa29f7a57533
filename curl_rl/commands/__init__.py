"""The verbs of the command line, one file each: its arguments, and what it calls; each imports that when it runs."""

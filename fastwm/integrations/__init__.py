"""fastwm in other people's projects: one file each. A file imports the project it is for, and nothing else does."""

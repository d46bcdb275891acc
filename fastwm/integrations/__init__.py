"""fastwm's planning inside other projects: a file or a package each, and no other file imports that project."""

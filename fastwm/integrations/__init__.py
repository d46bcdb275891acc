"""fastwm's planning inside other projects: one package per project."""

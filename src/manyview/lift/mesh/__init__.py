"""Meshes out of fields, and their textures out of views."""

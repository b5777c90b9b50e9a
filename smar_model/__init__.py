"""SMAR: retrieval of products with text and pictures by text queries (arXiv 2506.20330, 2603.04836)."""

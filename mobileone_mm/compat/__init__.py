"""What the libraries below lack, and everything that an import of this package changes in them."""

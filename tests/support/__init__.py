"""What several test files need. Test files import from here, never from each other."""

"""What has nothing to do with networks: errors, files, types in configs, checks of arguments."""

"""What the commands of `erpo` do, one file each. They return exit codes and print; errors are raised."""

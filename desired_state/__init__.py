"""What should be: releases, environments, targets, the rules they carry, and where they are read from."""

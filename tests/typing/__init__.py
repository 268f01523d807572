"""What the type checkers must make of definitions; checked with everything else, never run."""

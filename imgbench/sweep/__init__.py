"""Many runs: their table, search, resuming and comparison."""

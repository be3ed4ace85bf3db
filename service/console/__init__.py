"""What the `finetooth` command does between its options and its exit code."""

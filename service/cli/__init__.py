"""The `finetooth` command."""

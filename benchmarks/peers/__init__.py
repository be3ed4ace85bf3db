"""Finetooth beside other attribution engines, on the same model, data and steps."""
